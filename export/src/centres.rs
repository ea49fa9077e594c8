//! A task's descriptions → the few directions that stand for them in the table of a bundle.
//!
//! In: embeddings of one task's descriptions, `E` values each, of any length. Out: at most
//! [`CENTRES`] unit vectors, means of the descriptions that are nearest to each (spherical k-means,
//! Dhillon and Modha, 2001). A new description of the task is closer to such a mean than to most single
//! ones, other texts are not; and the table is a small part of what all descriptions would need.
//! The result depends on nothing but the embeddings and their order.

/// Directions per task, at most.
const CENTRES: usize = 2;
/// Rounds after which the division is taken as it is.
const ROUNDS: usize = 10;

/// The centres of embeddings that have the same width; fewer where descriptions are fewer or alike.
pub(crate) fn centres(embeddings: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let texts: Vec<Vec<f32>> = embeddings.iter().map(|values| unit(values.clone())).collect();
    // Each further centre starts at the description that the others are furthest from.
    let mut centres: Vec<Vec<f32>> = texts.first().cloned().into_iter().collect();
    while centres.len() < CENTRES {
        let nearest = texts.iter().map(|text| nearest(&centres, text).1);
        let furthest = nearest.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let different = furthest.filter(|(_, cosine)| *cosine < 1.0 - f32::EPSILON);
        let Some((text, _)) = different else { break };
        centres.push(texts[text].clone());
    }
    for _ in 0..ROUNDS {
        let mut sums: Vec<Option<Vec<f32>>> = vec![None; centres.len()];
        for text in &texts {
            match &mut sums[nearest(&centres, text).0] {
                Some(sum) => sum.iter_mut().zip(text).for_each(|(sum, value)| *sum += value),
                sum @ None => *sum = Some(text.clone()),
            }
        }
        let moved: Vec<Vec<f32>> =
            sums.into_iter().zip(&centres).map(|(s, c)| s.map_or(c.clone(), unit)).collect();
        if moved == centres {
            break;
        }
        centres = moved;
    }
    centres
}

/// Which centre a text is nearest to, and the cosine.
fn nearest(centres: &[Vec<f32>], text: &[f32]) -> (usize, f32) {
    let cosine = |centre: &Vec<f32>| centre.iter().zip(text).map(|(a, b)| a * b).sum::<f32>();
    let cosines = centres.iter().map(cosine).enumerate();
    cosines.fold((0, f32::NEG_INFINITY), |best, found| if found.1 > best.1 { found } else { best })
}

/// Scaled to length 1; a vector of zeros stays.
fn unit(mut values: Vec<f32>) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    for value in &mut values {
        *value /= length;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::{CENTRES, centres};

    #[test]
    fn two_groups_of_descriptions_have_a_centre_each() {
        let texts = [[3.0, 0.3], [2.0, -0.2], [0.1, 1.0], [-0.2, 2.0]].map(|t| t.to_vec());
        let found = centres(&texts);
        assert_eq!(found.len(), CENTRES);
        assert!(found[0][0] > 0.999 && found[1][1] > 0.999, "{found:?}");
        for centre in &found {
            assert!((centre[0].hypot(centre[1]) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn there_are_no_more_centres_than_different_descriptions() {
        assert_eq!(centres(&[vec![0.0, 2.0], vec![0.0, 2.0]]), [[0.0, 1.0]]);
        assert_eq!(centres(&[vec![0.0, 2.0], vec![2.0, 0.0]]).len(), 2);
        assert!(centres(&[]).is_empty());
    }
}
