//! Log-likelihoods of given answers in our decoder, for questions that offer choices.
//!
//! In: per example a prompt and the tokens of its choices, each with the end of turn. Out: per
//! choice the sum of the log-probabilities of its tokens, end of turn included, in nats.
//!
//! An example is a row of a packed batch: the prompt is the row's prefix and every choice a segment
//! behind it, so that a prompt is computed once, however many choices it has. Rows of about equal
//! length are batched. The last token of a choice predicts nothing and is never an input; the
//! prompt's last token predicts the first token of every choice with one row of logits.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use crate::base::adapter::Delta;
use crate::base::decoder::Decoder;
use crate::base::fused::cross_entropy;
use crate::base::packed::{PackedBatch, PackedRow};

/// Predictions per call of the output head, which bounds the memory for `[n, vocabulary]` logits.
const CHUNK_LEN: usize = 256;

/// One answer token that some token of a row predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prediction {
    /// Index of the choice that the token belongs to.
    choice: usize,
    /// Index of the predicting token in its row.
    at: usize,
    /// The token to predict.
    target: u32,
}

/// An example as a row.
#[derive(Debug)]
struct ChoiceRow {
    packed: PackedRow,
    predictions: Vec<Prediction>,
    choices: usize,
}

impl ChoiceRow {
    fn new(prompt: &[u32], choices: &[Vec<u32>]) -> Result<Self> {
        ensure!(!prompt.is_empty(), "a choice needs a prompt, got no tokens");
        let mut packed = PackedRow::with_prefix(prompt);
        let mut predictions = Vec::new();
        for (choice, tokens) in choices.iter().enumerate() {
            let Some((_, inputs)) = tokens.split_last() else { continue };
            let start = packed.extend(inputs, u32::try_from(choice + 1)?, prompt.len());
            let predicting = std::iter::once(prompt.len() - 1).chain(start..);
            predictions.extend(predicting.zip(tokens).map(|(at, &target)| Prediction {
                choice,
                at,
                target,
            }));
        }
        Ok(Self { packed, predictions, choices: choices.len() })
    }
}

/// Log-likelihoods of every choice of every example, in their order. All examples are computed
/// under the one `adapter`, in batches of at most `batch_tokens` where rows are not longer.
///
/// # Errors
/// An empty prompt, an adapter that does not fit the base, a token outside the vocabulary.
pub(super) fn log_likelihoods(
    decoder: &Decoder,
    adapter: Option<&dyn Delta>,
    prompts: &[Vec<u32>],
    choices: &[Vec<Vec<u32>>],
    batch_tokens: usize,
) -> Result<Vec<Vec<f64>>> {
    let rows: Vec<ChoiceRow> = prompts
        .iter()
        .zip(choices)
        .map(|(prompt, choices)| ChoiceRow::new(prompt, choices))
        .collect::<Result<_>>()?;
    let lengths: Vec<usize> = rows.iter().map(|row| row.packed.len()).collect();
    let mut sums: Vec<Vec<f64>> = rows.iter().map(|row| vec![0.0; row.choices]).collect();
    let adapter = adapter.map(ForAllRows);
    let adapter = adapter.as_ref().map(|adapter| adapter as &dyn Delta);
    for batch in batches(&lengths, batch_tokens) {
        let packed: Vec<PackedRow> = batch.iter().map(|&row| rows[row].packed.clone()).collect();
        let packed = PackedBatch::new(&packed);
        let hidden = decoder.forward(&packed, adapter, None)?;
        let mut places = Vec::new(); // (example, prediction, flat index of the predicting token)
        for (index, &row) in batch.iter().enumerate() {
            for prediction in &rows[row].predictions {
                let flat = u32::try_from(index * packed.width + prediction.at)?;
                places.push((row, prediction, flat));
            }
        }
        for chunk in places.chunks(CHUNK_LEN) {
            let at: Vec<u32> = chunk.iter().map(|&(.., flat)| flat).collect();
            let targets = chunk.iter().map(|(_, prediction, _)| prediction.target).collect();
            let losses = losses(decoder, &hidden, &at, targets)?;
            for (&(row, prediction, _), loss) in chunk.iter().zip(losses) {
                sums[row][prediction.choice] -= f64::from(loss);
            }
        }
    }
    Ok(sums)
}

/// Cross-entropy of each target; tokens that predict several targets get one row of logits.
fn losses(decoder: &Decoder, hidden: &Tensor, at: &[u32], targets: Vec<u32>) -> Result<Vec<f32>> {
    let mut distinct = at.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let places: Vec<u32> = at
        .iter()
        .map(|flat| u32::try_from(distinct.partition_point(|other| other < flat)))
        .collect::<Result<_, _>>()?;
    let logits = decoder.logits(hidden, &distinct)?;
    let logits = logits.index_select(&Tensor::from_vec(places, at.len(), logits.device())?, 0)?;
    Ok(cross_entropy(&logits, &Arc::new(targets), 0.0)?.to_vec1()?)
}

/// Groups row indices by rising length; a group, padded to its longest row, has at most
/// `batch_tokens`, unless it is a single row.
fn batches(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| lengths[row]);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for row in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * lengths[row] <= batch_tokens => batch.push(row),
            _ => batches.push(vec![row]),
        }
    }
    batches
}

/// An adapter of one row for all rows of a batch: it sees them laid end to end.
#[derive(Debug)]
struct ForAllRows<'a>(&'a dyn Delta);

impl Delta for ForAllRows<'_> {
    fn delta(&self, layer: usize, module: &str, x: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (rows, tokens, width) = x.dims3()?;
        let delta = self.0.delta(layer, module, &x.reshape((1, rows * tokens, width))?)?;
        delta.map(|delta| delta.reshape((rows, tokens, ()))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiny_model::{TinyModel, adapter, logits_alone};
    use super::{ChoiceRow, batches, log_likelihoods};

    #[test]
    fn choices_follow_the_prompt_and_share_its_last_token() {
        let row = ChoiceRow::new(&[7, 8], &[vec![1, 2, 0], vec![3, 0], vec![0]]).unwrap();
        assert_eq!(row.packed.len(), 5); // 7 8 | 1 2 | 3 |
        let predictions: Vec<_> =
            row.predictions.iter().map(|p| (p.choice, p.at, p.target)).collect();
        let expected = [(0, 1, 1), (0, 2, 2), (0, 3, 0), (1, 1, 3), (1, 4, 0), (2, 1, 0)];
        assert_eq!(predictions, expected);
        assert!(ChoiceRow::new(&[], &[]).is_err());
    }

    #[test]
    fn rows_of_like_length_are_batched() {
        assert_eq!(batches(&[5, 3, 9, 3], 10), [vec![1, 3], vec![0], vec![2]]);
        assert_eq!(batches(&[5, 3, 9, 3], 1000), [vec![1, 3, 0, 2]]);
        assert_eq!(batches(&[50], 10), [vec![0]]);
        assert!(batches(&[], 10).is_empty());
    }

    #[test]
    fn packed_likelihoods_are_those_of_each_choice_alone() {
        let (model, adapter) = (TinyModel::new(), adapter(1.0));
        let prompts = [vec![1, 2, 3, 4], vec![1, 2, 5], vec![6, 7, 8, 9, 10]];
        let choices = [
            vec![vec![11, 12, 0], vec![13, 0]],
            vec![vec![5, 0], vec![5, 6, 7, 0], vec![0]],
            vec![vec![1, 0]],
        ];
        let alone = |prompt: &[u32], choice: &[u32]| -> f64 {
            let logits = logits_alone(&model, &adapter, &[prompt, choice].concat());
            let predicting = &logits[prompt.len() - 1..];
            let log_p = |(row, &target): (&Vec<f32>, &u32)| {
                let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                f64::from(row[target as usize]) - total.ln()
            };
            predicting.iter().zip(choice).map(log_p).sum()
        };
        for batch_tokens in [1, 20, 1000] {
            let sums =
                log_likelihoods(&model.decoder, Some(&adapter), &prompts, &choices, batch_tokens);
            for ((prompt, choices), sums) in prompts.iter().zip(&choices).zip(sums.unwrap()) {
                assert_eq!(choices.len(), sums.len());
                for (choice, sum) in choices.iter().zip(sums) {
                    let expected = alone(prompt, choice);
                    assert!((sum - expected).abs() < 1e-3, "{sum} is not {expected}");
                }
            }
        }
    }
}
