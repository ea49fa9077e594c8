//! Greedy answers of our decoder to many prompts at once.
//!
//! In: prompts as tokens. Out: for each, the tokens that the base finds likeliest one after the
//! other. The prompts share a row of a packed batch: their common prefix is computed once, each is
//! a segment of its own, and a step adds one token to every answer that is still running. Keys and
//! values are cached, so nothing is computed twice, and logits exist for the newest tokens only.

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::D;

use super::engine::KeepGoing;
use crate::base::adapter::Delta;
use crate::base::decoder::{Decoder, KvCache};
use crate::base::packed::{PackedBatch, PackedRow, shared_prefix};

/// How answers are decoded.
#[derive(Debug)]
pub(super) struct Greedy<'a> {
    /// The base.
    pub decoder: &'a Decoder,
    /// One row, the same adapter for every prompt.
    pub adapter: Option<&'a dyn Delta>,
    /// The tokens that end an answer.
    pub ends: &'a [u32],
    /// Cap on the tokens of an answer, end of turn not counted.
    pub max_new_tokens: usize,
    /// Most prompt tokens in one row, about.
    pub row_tokens: usize,
}

impl Greedy<'_> {
    /// One answer per prompt, without end of turn. An answer also ends where `keep_going` says so.
    ///
    /// # Errors
    /// An empty prompt, an adapter that does not fit the base, an error of `keep_going`.
    pub(super) fn answers(
        &self,
        prompts: &[Vec<u32>],
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        ensure!(prompts.iter().all(|p| !p.is_empty()), "an answer needs a prompt, got no tokens");
        let mut answers = Vec::with_capacity(prompts.len());
        for range in split_rows(prompts, self.row_tokens) {
            let first = range.start;
            let row = &prompts[range];
            answers.extend(self.row(row, &mut |index, tokens| keep_going(first + index, tokens))?);
        }
        Ok(answers)
    }

    fn row(&self, prompts: &[Vec<u32>], keep_going: KeepGoing<'_>) -> Result<Vec<Vec<u32>>> {
        let mut answers = vec![Vec::new(); prompts.len()];
        let shared = shared_prefix(prompts);
        let mut row = PackedRow::with_prefix(prompts.first().map_or(&[][..], |p| &p[..shared]));
        let mut newest = Vec::with_capacity(prompts.len());
        for (segment, prompt) in (1..).zip(prompts) {
            let start = row.extend(&prompt[shared..], segment, shared);
            newest.push(u32::try_from(start + prompt.len() - shared - 1)?);
        }
        let mut running: Vec<usize> = (0..prompts.len()).collect();
        let mut cache = KvCache::default();
        while !running.is_empty() && self.max_new_tokens > 0 {
            let batch = PackedBatch::new(&[std::mem::take(&mut row)]);
            let hidden = self.decoder.forward(&batch, self.adapter, Some(&mut cache))?;
            let logits = self.decoder.logits(&hidden, &newest)?;
            let tokens = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
            let mut next = Vec::with_capacity(running.len());
            for (index, token) in running.into_iter().zip(tokens) {
                if self.ends.contains(&token) {
                    continue;
                }
                let answer: &mut Vec<u32> = &mut answers[index];
                answer.push(token);
                if answer.len() < self.max_new_tokens && keep_going(index, answer)? {
                    let position = prompts[index].len() + answer.len() - 1;
                    row.extend(&[token], u32::try_from(index + 1)?, position);
                    next.push(index);
                }
            }
            running = next;
            newest = (0..).take(running.len()).collect();
        }
        Ok(answers)
    }
}

/// Cuts prompts, in order, into rows of about equal length, each of about `row_tokens` at most.
fn split_rows(prompts: &[Vec<u32>], row_tokens: usize) -> Vec<Range<usize>> {
    let shared = shared_prefix(prompts);
    let own: usize = prompts.iter().map(|prompt| prompt.len() - shared).sum();
    let rows = own.div_ceil(row_tokens.saturating_sub(shared).max(1)).max(1);
    let target = own.div_ceil(rows);
    let (mut ranges, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (index, prompt) in prompts.iter().enumerate() {
        tokens += prompt.len() - shared;
        if tokens >= target {
            ranges.push(start..index + 1);
            (start, tokens) = (index + 1, 0);
        }
    }
    if start < prompts.len() {
        ranges.push(start..prompts.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::tiny_model::{TinyModel, adapter, logits_alone};
    use super::{Greedy, split_rows};

    #[test]
    fn rows_are_equally_long_and_cover_all_prompts() {
        let prompts: Vec<Vec<u32>> = (0..4).map(|i| vec![9, 2 * i, 7]).collect();
        assert_eq!(split_rows(&prompts, 5), [0..2, 2..4]);
        assert_eq!(split_rows(&prompts, 9).len(), 1);
        assert_eq!(split_rows(&prompts, 1), [0..1, 1..2, 2..3, 3..4]);
        assert!(split_rows(&[], 5).is_empty());
    }

    fn prompts() -> Vec<Vec<u32>> {
        vec![vec![1, 2, 3, 4], vec![1, 2, 5], vec![1, 2, 6, 7, 8, 9], vec![1, 2, 5, 3]]
    }

    /// The answer to one prompt, everything recomputed for every token.
    fn answer_alone(model: &TinyModel, prompt: &[u32], end_of_turn: u32) -> Vec<u32> {
        let adapter = adapter(1.0);
        let mut tokens = prompt.to_vec();
        while tokens.len() < prompt.len() + 6 {
            let logits = logits_alone(model, &adapter, &tokens);
            let last = logits.last().unwrap();
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            let best = u32::try_from(best).unwrap();
            if best == end_of_turn {
                break;
            }
            tokens.push(best);
        }
        tokens.split_off(prompt.len())
    }

    #[test]
    fn packed_answers_are_those_of_each_prompt_alone() {
        let (model, adapter) = (TinyModel::new(), adapter(1.0));
        // A token that some answer contains, so that answers end at different steps.
        let end_of_turn = answer_alone(&model, &prompts()[0], u32::MAX)[2];
        let expected: Vec<Vec<u32>> =
            prompts().iter().map(|prompt| answer_alone(&model, prompt, end_of_turn)).collect();
        for row_tokens in [1, 7, 1000] {
            let greedy = Greedy {
                decoder: &model.decoder,
                adapter: Some(&adapter),
                ends: &[end_of_turn],
                max_new_tokens: 6,
                row_tokens,
            };
            let answers = greedy.answers(&prompts(), &mut |_, _| Ok(true)).unwrap();
            assert_eq!(answers, expected, "{row_tokens} tokens a row");
        }
    }

    #[test]
    fn answers_end_where_the_caller_says_so() {
        let model = TinyModel::new();
        let mut greedy = Greedy {
            decoder: &model.decoder,
            adapter: None,
            ends: &[],
            max_new_tokens: 5,
            row_tokens: 8,
        };
        let lengths = |greedy: &Greedy<'_>| -> Vec<usize> {
            let answers = greedy
                .answers(&prompts(), &mut |index, tokens: &[u32]| Ok(tokens.len() <= index))
                .unwrap();
            answers.iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(&greedy), [1, 2, 3, 4]);
        greedy.max_new_tokens = 2;
        assert_eq!(lengths(&greedy), [1, 2, 2, 2]);
        let error = greedy.answers(&[vec![]], &mut |_, _| Ok(true)).unwrap_err();
        assert_eq!(error.to_string(), "an answer needs a prompt, got no tokens");
    }
}
