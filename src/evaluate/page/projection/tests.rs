use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Projection, eigenpairs};

fn project(vectors: &[Vec<f32>]) -> Projection {
    let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
    Projection::of(&vectors).unwrap()
}

/// A vector with values from -1 to 1.
fn random(rng: &mut ChaCha8Rng, width: usize) -> Vec<f32> {
    (0..width).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn apart(left: [f64; 2], right: [f64; 2]) -> f64 {
    (left[0] - right[0]).hypot(left[1] - right[1])
}

#[test]
fn points_on_a_line_need_one_axis() {
    let line: Vec<Vec<f32>> = [-1.0f32, 0.0, 4.0, 1.0]
        .into_iter()
        .map(|t| vec![5.0 + 3.0 * t, 1.0, 2.0 - 4.0 * t])
        .collect();
    let projection = project(&line);
    // The direction has length 5, and the mean is at t = 1.
    for (point, expected) in projection.points.iter().zip([-10.0, -5.0, 15.0, 0.0]) {
        assert!((point[0] - expected).abs() < 1e-6, "{point:?}");
        assert!(point[1].abs() < 1e-5, "{point:?}");
    }
    assert!((projection.shares[0] - 1.0).abs() < 1e-9, "{:?}", projection.shares);
    assert!(projection.shares[1].abs() < 1e-9, "{:?}", projection.shares);
}

#[test]
fn a_plane_in_fifty_dimensions_keeps_its_distances() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let [origin, across, up] = [0; 3].map(|_| random(&mut rng, 50));
    let vectors: Vec<Vec<f32>> = (0..30)
        .map(|_| {
            let (s, t) = (rng.random_range(-2.0f32..2.0), rng.random_range(-1.0f32..1.0));
            (0..50).map(|i| origin[i] + s * across[i] + t * up[i]).collect()
        })
        .collect();
    let projection = project(&vectors);
    for (left, left_point) in vectors.iter().zip(&projection.points) {
        for (right, right_point) in vectors.iter().zip(&projection.points) {
            let squares = left.iter().zip(right).map(|(l, r)| f64::from(l - r).powi(2));
            let expected = squares.sum::<f64>().sqrt();
            let got = apart(*left_point, *right_point);
            assert!((got - expected).abs() < 1e-4, "{got} instead of {expected}");
        }
    }
    let [first, second] = projection.shares;
    assert!(first >= second && second > 0.0 && (first + second - 1.0).abs() < 1e-6);
}

#[test]
fn the_first_axis_has_the_largest_variance_and_points_upright() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let vectors: Vec<Vec<f32>> = (0..40)
        .map(|_| {
            let mut vector = random(&mut rng, 20);
            vector[7] *= 100.0;
            vector[11] *= 20.0;
            vector
        })
        .collect();
    let projection = project(&vectors);
    let variance = |axis: usize| projection.points.iter().map(|p| p[axis] * p[axis]).sum::<f64>();
    assert!(variance(0) > variance(1));
    for axis in 0..2 {
        let coordinates = || projection.points.iter().map(|point| point[axis]);
        assert!(coordinates().sum::<f64>().abs() < 1e-6, "not around the mean");
        let largest = coordinates().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        assert!(largest > 0.0);
    }
    // The widest coordinates are all but the axes.
    let mean = |of: usize| vectors.iter().map(|v| f64::from(v[of])).sum::<f64>() / 40.0;
    for (axis, coordinate) in [(0, 7), (1, 11)] {
        let mean = mean(coordinate);
        let pairs = vectors.iter().zip(&projection.points);
        let product: f64 = pairs.map(|(v, p)| (f64::from(v[coordinate]) - mean) * p[axis]).sum();
        let own: f64 = vectors.iter().map(|v| (f64::from(v[coordinate]) - mean).powi(2)).sum();
        let correlation = product.abs() / (own * variance(axis)).sqrt();
        assert!(correlation > 0.8, "{correlation}");
    }
    assert_eq!(projection, project(&vectors));
}

#[test]
fn two_points_lie_on_the_first_axis() {
    let projection = project(&[vec![0.0, 0.0, 1.0], vec![3.0, 4.0, 1.0]]);
    let [first, second] = projection.points[..] else { panic!("not two points") };
    assert!((first[0].abs() - 2.5).abs() < 1e-9 && (first[0] + second[0]).abs() < 1e-9);
    assert!(first[0] > 0.0, "the first of two equally large coordinates decides");
}

#[test]
fn points_without_a_spread_are_all_in_the_middle() {
    let same = vec![vec![0.1f32, -0.7, 1e6]; 7];
    let projection = project(&same);
    assert_eq!(projection, Projection { points: vec![[0.0; 2]; 7], shares: [0.0; 2] });
    assert_eq!(project(&same[..1]).points, [[0.0; 2]]);
    assert!(project(&[]).points.is_empty());
    assert_eq!(project(&[Vec::new(), Vec::new()]).points, [[0.0; 2]; 2]);
}

#[test]
fn unusable_vectors_are_refused() {
    fn refused(vectors: &[&[f32]]) -> String {
        Projection::of(vectors).unwrap_err().to_string()
    }
    assert!(refused(&[&[1.0, 2.0], &[1.0]]).contains("vector 1 has 1 values, expected 2"));
    assert!(refused(&[&[1.0], &[f32::NAN]]).contains("vector 1 has values that are not finite"));
    assert!(refused(&vec![&[1.0f32][..]; 2049]).contains("2049 vectors, at most 2048"));
}

#[test]
fn eigenpairs_solve_their_equation() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut matrix = vec![vec![0.0; 6]; 6];
    for (row, column) in (0..6).flat_map(|row| (0..=row).map(move |column| (row, column))) {
        let value: f64 = rng.random_range(-1.0..1.0);
        (matrix[row][column], matrix[column][row]) = (value, value);
    }
    let pairs = eigenpairs(matrix.clone());
    assert!(pairs.windows(2).all(|two| two[0].0 >= two[1].0));
    for (value, vector) in &pairs {
        assert!((super::dot(vector, vector) - 1.0).abs() < 1e-12);
        for (row, coordinate) in matrix.iter().zip(vector) {
            assert!((super::dot(row, vector) - value * coordinate).abs() < 1e-12);
        }
    }
}
