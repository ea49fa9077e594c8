//! Descriptions → the table of training tasks, and when `compile` warns.
//!
//! In: the encoder of a bundle, descriptions that training saw and did not see, and texts that
//! describe no task. Out: the table, with [`centres`] of each task and a row for each of those texts and
//! of some random ones; and the threshold below which `compile` warns: the 5th percentile of the
//! nearest-task cosine of the unseen descriptions, among which those that are nearest to a text
//! without a task come first. How many other random texts are caught is recorded. Where there is
//! no unseen description, or none is known at all, nothing is claimed and `compile` never warns.

use std::collections::BTreeMap;

use t2lc_runtime::encode::Encoder;
use t2lc_runtime::manifest::FamiliarityInfo;
use t2lc_runtime::nearest::{NO_TASK, Neighborhood, TaskTable};

use crate::centres::centres;
use crate::embed::embed_all;
use crate::error::ExportError;
use crate::freeze::Descriptions;

/// Share of unseen real descriptions that may be warned about.
const WARNED_SHARE: f32 = 0.05;
/// Random texts the warning is measured on.
const RANDOM_TEXTS: usize = 500;
/// Random texts among the rows without a task; others than the warning is measured on.
const RANDOM_ROWS: usize = 100;
/// A threshold that no cosine is below.
const NEVER: f32 = -1.0;

/// The table of training tasks and of texts that describe none, and the threshold below which
/// `compile` warns.
pub(crate) fn task_table(
    encoder: &Encoder,
    descriptions: &Descriptions,
    width: usize,
) -> Result<(TaskTable, FamiliarityInfo), ExportError> {
    let Descriptions { training, unseen, no_task } = descriptions;
    let claims = !training.is_empty() && !unseen.is_empty();
    let random = random_texts(RANDOM_ROWS + RANDOM_TEXTS);
    let (random_rows, random) = random.split_at(RANDOM_ROWS);
    let mut of_tasks: BTreeMap<&str, Vec<Vec<f32>>> = BTreeMap::new();
    let texts: Vec<&str> = training.iter().map(|(_, text)| text.as_str()).collect();
    for ((task, _), values) in training.iter().zip(embed_all(encoder, &texts)?) {
        of_tasks.entry(task).or_default().push(values);
    }
    let row = |task: &str, values: Vec<f32>| (task.to_owned(), values);
    let mut rows: Vec<(String, Vec<f32>)> = Vec::new();
    for (task, embeddings) in of_tasks {
        rows.extend(centres(&embeddings).into_iter().map(|values| row(task, values)));
    }
    if claims {
        let texts: Vec<&str> = no_task.iter().chain(random_rows).map(String::as_str).collect();
        let embeddings = embed_all(encoder, &texts)?.into_iter();
        rows.extend(embeddings.map(|values| row(NO_TASK, values)));
    }
    let table = if rows.is_empty() {
        // No row has shown yet that the encoder runs and has the width of the hypernetwork.
        embed_all(encoder, &["a description"])?;
        TaskTable::empty(width)
    } else {
        TaskTable::from_embeddings(&rows)?
    };
    if !claims {
        let familiarity =
            FamiliarityInfo { warn_below: NEVER, warned_descriptions: 0.0, warned_random: 0.0 };
        return Ok((table, familiarity));
    }
    let near = |texts: &[String]| -> Result<Vec<Neighborhood>, ExportError> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeddings = embed_all(encoder, &texts)?;
        Ok(embeddings.iter().map(|values| table.nearest(values, 1)).collect())
    };
    let familiarity = calibrate(&near(unseen)?, &near(random)?);
    Ok((table, familiarity))
}

/// The threshold that, with the rows without a task, warns about [`WARNED_SHARE`] of the unseen
/// descriptions, and what both catch.
fn calibrate(unseen: &[Neighborhood], random: &[Neighborhood]) -> FamiliarityInfo {
    let cosine = |near: &Neighborhood| match near.tasks.first() {
        Some(task) if near.is_familiar(NEVER) => task.cosine,
        _ => NEVER,
    };
    let mut sorted: Vec<f32> = unseen.iter().map(cosine).collect();
    sorted.sort_by(f32::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a length
    let place = (sorted.len() as f32 * WARNED_SHARE) as usize;
    // Two decimals: digits beyond that are noise, and differ between backends.
    let warn_below = sorted.get(place).map_or(NEVER, |cosine| (cosine * 100.0).floor() / 100.0);
    let share = |texts: &[Neighborhood]| {
        let warned = texts.iter().filter(|near| !near.is_familiar(warn_below)).count();
        (warned as f32 / texts.len().max(1) as f32 * 1000.0).round() / 1000.0
    };
    FamiliarityInfo { warn_below, warned_descriptions: share(unseen), warned_random: share(random) }
}

/// Texts of random letters and spaces, the same on every machine.
fn random_texts(count: usize) -> Vec<String> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = |below: u64| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    };
    let mut text = || {
        let length = 12 + next(40);
        (0..length)
            .map(|_| match next(32) {
                n @ 0..26 => char::from(b'a' + u8::try_from(n).unwrap_or(0)),
                26 => '7',
                _ => ' ',
            })
            .collect::<String>()
    };
    // A leading letter keeps a text from being blank.
    (0..count).map(|_| format!("x{}", text())).collect()
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::nearest::{Neighbor, Neighborhood};

    use super::{calibrate, random_texts};

    fn near(cosine: f32, no_task: f32) -> Neighborhood {
        Neighborhood { tasks: vec![Neighbor { task: "t".into(), cosine }], no_task }
    }

    #[test]
    fn the_threshold_spares_real_descriptions() {
        let mut unseen: Vec<_> =
            (0..100u8).map(|i| near(0.5 + f32::from(i) / 250.0, -1.0)).collect();
        let mut random: Vec<_> = [0.1, 0.2, 0.3, 0.9].map(|cosine| near(cosine, -1.0)).to_vec();
        let found = calibrate(&unseen, &random);
        assert!((found.warn_below - 0.52).abs() < 1e-6, "{found:?}");
        assert!(found.warned_descriptions <= 0.06 && found.warned_random > 0.74, "{found:?}");

        // What is nearest to a text without a task counts as warned before the threshold does.
        unseen[90].no_task = 1.0;
        random[3].no_task = 1.0;
        let found = calibrate(&unseen, &random);
        assert!((found.warn_below - 0.51).abs() < 1e-6, "{found:?}");
        assert!(found.warned_descriptions <= 0.06 && found.warned_random > 0.99, "{found:?}");
    }

    #[test]
    fn random_texts_are_reproducible_and_not_blank() {
        let texts = random_texts(50);
        assert_eq!(texts, random_texts(50));
        assert!(texts.iter().all(|t| !t.trim().is_empty()));
    }
}
