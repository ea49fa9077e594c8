//! Which tasks, descriptions and examples a training step sees, as packed rows.
//!
//! The choice is a function of the seed and the step alone, so a resumed run sees what an
//! uninterrupted one would have seen. A row holds as many examples of its task as fit its token
//! budget: tasks with short examples get more of them, and rows come out equally long.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::data::TaskData;
use super::embed::DescriptionEncoder;
use crate::base::chat::Chat;
use crate::base::packed::{PackedBatch, PackedRow, shared_prefix};
use crate::taskpack::{Example, ExampleSplit, Task};

/// An example as tokens.
#[derive(Debug, Clone)]
pub struct TokenizedExample {
    /// Everything up to where the answer starts.
    pub prompt: Vec<u32>,
    /// The answer and the end of turn.
    pub answer: Vec<u32>,
    /// The input as text, for adapters that depend on it.
    pub input: String,
}

/// Tokenizes the examples of one split of a task, leaving out those longer than `max_tokens`.
///
/// With `descriptions`, example `i` has number `i` of them (in turn) before its input.
///
/// # Errors
/// Text the tokenizer cannot encode.
pub fn tokenize(
    task: &Task,
    split: ExampleSplit,
    chat: &Chat,
    max_tokens: usize,
    descriptions: &[&str],
) -> Result<Vec<TokenizedExample>> {
    let tokenized = |(index, example): (usize, &Example)| -> Result<TokenizedExample> {
        let described = index.checked_rem(descriptions.len()).map(|i| descriptions[i]);
        let prompt = match described {
            Some(description) => chat.prompt(&format!("{description}\n\n{}", example.input))?,
            None => chat.prompt(&example.input)?,
        };
        let answer = chat.answer(&example.output)?;
        Ok(TokenizedExample { prompt, answer, input: example.input.clone() })
    };
    let all: Vec<_> = task.examples_of(split).enumerate().map(tokenized).collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|e| e.prompt.len() + e.answer.len() <= max_tokens).collect())
}

/// Padded tokens that one part of a batch has at most, unless a single example has more: what is
/// kept for the backward pass grows with them, smaller products spend more of their time on
/// arranging the weights, and several parts keep all cores busy.
const PART_TOKENS: usize = 400;
/// Rows of a part are at least this share of its longest one.
const SHORTEST_SHARE: f64 = 0.7;

/// What one step computes.
#[derive(Debug)]
pub struct TrainingBatch {
    /// Every example once, in rows of similar length; each part is computed on its own.
    pub parts: Vec<BatchPart>,
    /// What the adapter of each task depends on.
    pub conditions: Vec<Condition>,
    /// Conditions that stand for no task, whose adapters should change nothing.
    pub nonsense: Vec<Condition>,
    /// Name of each task.
    pub tasks: Vec<String>,
    /// Tokens computed, padding left out.
    pub tokens: usize,
}

/// Rows that are computed together.
#[derive(Debug)]
pub struct BatchPart {
    /// Per row, the task of the batch whose adapter it runs with.
    pub adapters: Vec<u32>,
    /// Their tokens.
    pub packed: PackedBatch,
    /// Flat indices of the tokens that predict an answer token.
    pub predict_at: Vec<u32>,
    /// The answer tokens they should predict.
    pub targets: Vec<u32>,
    /// Weight of each: tasks, examples of a task and tokens of an answer weigh equally; the weights
    /// of all parts sum to 1.
    pub weights: Vec<f32>,
}

impl TrainingBatch {
    /// Packs the examples of each entry of `rows` into one row, or into several where they are too
    /// long for a part, and rows of similar length into parts, the longest first.
    ///
    /// # Errors
    /// A row without examples.
    pub fn pack(rows: Vec<Row<'_>>) -> Result<Self> {
        let mut placed = Vec::with_capacity(rows.len());
        for (adapter, Row { task, examples, .. }) in (0_u32..).zip(&rows) {
            ensure!(!examples.is_empty(), "task `{task}` of a batch has no example");
            let weight = 1.0 / (rows.len() * examples.len()) as f32;
            let mut left = examples.as_slice();
            while !left.is_empty() {
                let (now, later) = left.split_at(fitting(left, PART_TOKENS));
                placed.push(PlacedRow::new(adapter, weight, now));
                left = later;
            }
        }
        placed.sort_by_key(|placed| std::cmp::Reverse(placed.row.len()));
        let ranges = similar_lengths(&placed.iter().map(|p| p.row.len()).collect::<Vec<_>>());
        Ok(Self {
            parts: ranges
                .into_iter()
                .map(|range| BatchPart::new(&placed[range]))
                .collect::<Result<_>>()?,
            tokens: placed.iter().map(|placed| placed.row.len()).sum(),
            tasks: rows.iter().map(|row| row.task.clone()).collect(),
            conditions: rows.into_iter().map(|row| row.condition).collect(),
            nonsense: Vec::new(),
        })
    }
}

/// How many of the first examples make a row of at most `limit` tokens; at least one.
fn fitting(examples: &[&TokenizedExample], limit: usize) -> usize {
    let fits = |count: &usize| tokens_of(&examples[..*count]) <= limit;
    (2..=examples.len()).take_while(fits).last().unwrap_or(1)
}

/// Tokens of the row that examples make: what their prompts share, then each example's own.
fn tokens_of(examples: &[&TokenizedExample]) -> usize {
    let prompts: Vec<&[u32]> = examples.iter().map(|e| e.prompt.as_slice()).collect();
    let shared = shared_prefix(&prompts);
    let own = examples.iter().map(|e| e.prompt.len() - shared + e.answer.len() - 1);
    shared + own.sum::<usize>()
}

/// Cuts falling lengths into parts of little padding.
fn similar_lengths(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (index, &length) in lengths.iter().enumerate() {
        let (longest, rows) = (lengths[start], index - start);
        let alike = length as f64 >= SHORTEST_SHARE * longest as f64;
        if rows > 0 && (!alike || (rows + 1) * longest > PART_TOKENS) {
            parts.push(start..index);
            start = index;
        }
    }
    parts.push(start..lengths.len());
    parts.retain(|part| !part.is_empty());
    parts
}

/// A row as tokens, and where its answers are.
struct PlacedRow<'t> {
    adapter: u32,
    row: PackedRow,
    /// Weight of each answer.
    weight: f32,
    /// Per example, the first token that predicts, and the answer.
    answers: Vec<(usize, &'t [u32])>,
}

impl<'t> PlacedRow<'t> {
    fn new(adapter: u32, weight: f32, examples: &[&'t TokenizedExample]) -> Self {
        let prompts: Vec<&[u32]> = examples.iter().map(|e| e.prompt.as_slice()).collect();
        let shared = shared_prefix(&prompts);
        let prefix = prompts.first().map_or(&[][..], |prompt| &prompt[..shared]);
        let mut row = PackedRow::with_prefix(prefix);
        let mut answers = Vec::with_capacity(examples.len());
        for (segment, example) in (1..).zip(examples) {
            let (prompt, answer) = (&example.prompt[shared..], example.answer.as_slice());
            let start = row.extend(prompt, segment, shared);
            // The end of the answer predicts nothing, so it is never an input.
            row.extend(&answer[..answer.len() - 1], segment, example.prompt.len());
            answers.push((start + prompt.len() - 1, answer));
        }
        Self { adapter, row, weight, answers }
    }
}

impl BatchPart {
    fn new(rows: &[PlacedRow<'_>]) -> Result<Self> {
        let packed: Vec<PackedRow> = rows.iter().map(|placed| placed.row.clone()).collect();
        let packed = PackedBatch::new(&packed);
        let (mut predict_at, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, PlacedRow { weight, answers, .. }) in rows.iter().enumerate() {
            for (start, answer) in answers {
                for (offset, &token) in answer.iter().enumerate() {
                    predict_at.push(u32::try_from(row * packed.width + start + offset)?);
                    targets.push(token);
                    weights.push(weight / answer.len() as f32);
                }
            }
        }
        let adapters = rows.iter().map(|placed| placed.adapter).collect();
        Ok(Self { adapters, packed, predict_at, targets, weights })
    }
}

/// One row of a batch: examples that share an adapter.
#[derive(Debug, Clone)]
pub struct Row<'t> {
    /// Name of the task.
    pub task: String,
    /// Examples, at least one.
    pub examples: Vec<&'t TokenizedExample>,
    /// What the adapter depends on.
    pub condition: Condition,
}

/// Size of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct BatchOptions {
    /// Tasks per batch
    #[arg(long, default_value_t = 12)]
    pub tasks_per_batch: usize,
    /// Token budget of one task's examples in a batch
    #[arg(long, default_value_t = 128)]
    pub row_tokens: usize,
    /// Most examples of one task in a batch
    #[arg(long, default_value_t = 12)]
    pub max_examples: usize,
}

/// Draws the batches of a run.
#[derive(Debug)]
pub struct Sampler<'a> {
    /// The tasks trained on.
    pub tasks: &'a [TaskData],
    /// Those of an epoch, by index, each as often as it is drawn.
    pub epoch: &'a [usize],
    /// Embeds inputs, for tasks whose examples have conditions of their own.
    pub encoder: Option<&'a DescriptionEncoder>,
    /// Size of a batch.
    pub options: &'a BatchOptions,
    /// Seed of the run.
    pub seed: u64,
}

impl Sampler<'_> {
    /// A batch of a run: tasks in a new random order per epoch, a random description and random
    /// examples for each.
    ///
    /// # Errors
    /// A task without examples.
    pub fn batch(&self, number: usize, rng: &mut ChaCha8Rng) -> Result<TrainingBatch> {
        let count = self.options.tasks_per_batch;
        let rows = (0..count).map(|k| {
            let task = &self.tasks[self.task_at(number * count + k)];
            let kinds = task.conditions.len();
            let condition = (kinds > 0).then(|| rng.random_range(0..kinds));
            let mut examples = self.draw_examples(task, rng);
            let condition = if let Some(index) = condition {
                task.conditions[index].clone()
            } else {
                examples.truncate(1);
                embed_input(self.encoder, &examples)?
            };
            Ok(Row { task: task.id.clone(), examples, condition })
        });
        TrainingBatch::pack(rows.collect::<Result<_>>()?)
    }

    fn task_at(&self, index: usize) -> usize {
        let (epoch, place) = (index / self.epoch.len(), index % self.epoch.len());
        let mut order = self.epoch.to_vec();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::MAX - epoch as u64);
        order.shuffle(&mut rng);
        order[place]
    }

    fn draw_examples<'t>(
        &self,
        task: &'t TaskData,
        rng: &mut ChaCha8Rng,
    ) -> Vec<&'t TokenizedExample> {
        let mut order: Vec<usize> = (0..task.examples.len()).collect();
        let (drawn, _) = order.partial_shuffle(rng, self.options.max_examples);
        fill_row(drawn.iter().map(|&i| &task.examples[i]), self.options.row_tokens)
    }
}

/// The condition of a row whose only example stands for itself.
///
/// # Errors
/// A missing encoder, a row without examples.
pub fn embed_input(
    encoder: Option<&DescriptionEncoder>,
    examples: &[&TokenizedExample],
) -> Result<Condition> {
    let encoder = encoder.context("examples with conditions of their own need an encoder")?;
    let example = examples.first().context("a row without examples")?;
    Ok(Condition::Embedding(encoder.embed(&example.input)?))
}

/// Takes examples while the row they make stays within `row_tokens`; always at least one. The first
/// that does not fit ends the row: to look for a shorter one would prefer short examples.
pub fn fill_row<'t>(
    candidates: impl Iterator<Item = &'t TokenizedExample>,
    row_tokens: usize,
) -> Vec<&'t TokenizedExample> {
    let mut taken: Vec<&TokenizedExample> = Vec::new();
    for candidate in candidates {
        taken.push(candidate);
        let tokens = tokens_of(&taken);
        if taken.len() > 1 && tokens > row_tokens {
            taken.pop();
            break;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::{
        BatchOptions, BatchPart, Condition, Row, Sampler, TaskData, TokenizedExample,
        TrainingBatch, similar_lengths,
    };
    use crate::train::run::batch_rng;

    fn example(prompt: &[u32], answer: &[u32]) -> TokenizedExample {
        let (prompt, answer) = (prompt.to_vec(), answer.to_vec());
        TokenizedExample { prompt, answer, input: String::new() }
    }

    fn value(value: f32) -> Condition {
        Condition::Embedding(vec![value])
    }

    #[test]
    fn answers_are_predicted_from_the_last_prompt_token_on() {
        let (a, b) = (example(&[1, 2, 3], &[4, 9]), example(&[1, 2, 5, 6], &[9]));
        let row = Row { task: "t".into(), examples: vec![&a, &b], condition: value(0.0) };
        let batch = TrainingBatch::pack(vec![row]).unwrap();
        let [part] = &batch.parts[..] else { panic!("{} parts", batch.parts.len()) };
        // prefix 1 2 | 3 4 | 5 6
        assert_eq!(part.packed.ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(part.packed.positions, [0, 1, 2, 3, 2, 3]);
        assert_eq!(part.predict_at, [2, 3, 5]);
        assert_eq!(part.targets, [4, 9, 9]);
        assert_eq!(part.weights, [0.25, 0.25, 0.5]);
    }

    #[test]
    fn rows_of_other_lengths_are_computed_apart_and_weigh_the_same() {
        let long: Vec<u32> = (0..500).collect();
        let (long, short) = (example(&long, &[9]), example(&[1, 2], &[4, 9]));
        let row = |example, number| Row {
            task: format!("{number}"),
            examples: vec![example],
            condition: value(number),
        };
        let rows = vec![row(&short, 0.0), row(&long, 1.0), row(&short, 2.0)];
        let batch = TrainingBatch::pack(rows).unwrap();
        assert_eq!(batch.conditions, [value(0.0), value(1.0), value(2.0)]);
        assert_eq!(batch.tasks, ["0", "1", "2"]);
        let adapters: Vec<_> = batch.parts.iter().map(|part| part.adapters.clone()).collect();
        assert_eq!(adapters, [vec![1], vec![0, 2]]);
        let weight = |part: &BatchPart| part.weights.iter().sum::<f32>();
        assert!((weight(&batch.parts[0]) - 1.0 / 3.0).abs() < 1e-6);
        assert!((weight(&batch.parts[1]) - 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn parts_keep_their_budget() {
        assert!(similar_lengths(&[]).is_empty());
        assert_eq!(similar_lengths(&[9000]).len(), 1);
        assert_eq!(similar_lengths(&[70; 7]), [0..5, 5..7]);
        assert_eq!(similar_lengths(&[100, 80, 60, 59]), [0..2, 2..4]);
    }

    #[test]
    fn a_task_that_is_too_long_for_a_part_is_cut_between_examples() {
        let long = |first: u32| example(&(0..100).map(|i| first + i).collect::<Vec<_>>(), &[9]);
        let examples = [long(0), long(1000), long(2000), long(3000), long(4000)];
        let row = Row {
            task: "t".into(),
            examples: examples.iter().collect(),
            condition: Condition::nothing(),
        };
        let batch = TrainingBatch::pack(vec![row]).unwrap();
        let adapters: Vec<_> = batch.parts.iter().map(|part| part.adapters.clone()).collect();
        assert_eq!(adapters, [[0], [0]]);
        let weights: Vec<f32> = batch.parts.iter().flat_map(|part| part.weights.clone()).collect();
        assert_eq!(weights, [0.2; 5]);
        assert_eq!(batch.tokens, 500);
    }

    #[test]
    fn batches_depend_on_seed_and_number_alone_and_keep_the_budget() {
        let task = |first: u32| TaskData {
            id: first.to_string(),
            examples: (0..40).map(|i| example(&[1, first, i, i, i], &[i, 9])).collect(),
            conditions: vec![value(0.0), value(1.0)],
        };
        let tasks = [task(2), task(3), task(4)];
        let options = BatchOptions { tasks_per_batch: 2, row_tokens: 18, max_examples: 9 };
        let sampler =
            Sampler { tasks: &tasks, epoch: &[0, 1, 2], encoder: None, options: &options, seed: 5 };
        let batch = |number| sampler.batch(number, &mut batch_rng(5, number)).unwrap();
        let ids = |number| batch(number).parts[0].packed.ids.clone();
        assert_eq!(ids(7), ids(7));
        assert_ne!(ids(7), ids(8));
        assert_eq!(batch(3).parts[0].packed.width, 18); // 2 shared, 4 examples of 3 + 1
        // Two epochs of three tasks fill three batches.
        let mut seen = [batch(0).tasks, batch(1).tasks, batch(2).tasks].concat();
        seen.sort();
        assert_eq!(seen, ["2", "2", "3", "3", "4", "4"]);
    }

    #[test]
    fn examples_that_stand_for_themselves_need_an_encoder() {
        let task =
            TaskData { id: "t".into(), examples: vec![example(&[1], &[2])], conditions: vec![] };
        let options = BatchOptions { tasks_per_batch: 1, row_tokens: 8, max_examples: 4 };
        let sampler =
            Sampler { tasks: &[task], epoch: &[0], encoder: None, options: &options, seed: 5 };
        let error = sampler.batch(0, &mut batch_rng(5, 0)).unwrap_err().to_string();
        assert!(error.contains("encoder"), "{error}");
    }
}
