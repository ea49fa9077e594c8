//! Which tasks, descriptions and examples a training step sees, as packed rows.
//!
//! The choice is a function of the seed and the step alone, so a resumed run sees what an
//! uninterrupted one would have seen. A row holds as many examples of its task as fit its token
//! budget: tasks with short examples get more of them, and rows come out equally long.

use anyhow::{Context, Result};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
}

/// Examples of one task and the embeddings of its descriptions.
#[derive(Debug, Clone)]
pub struct TaskData {
    /// Examples that fit the length limit.
    pub examples: Vec<TokenizedExample>,
    /// Description embeddings, `E` values each.
    pub embeddings: Vec<Vec<f32>>,
}

/// Tokenizes the examples of one split of a task, leaving out those longer than `max_tokens`.
///
/// # Errors
/// Text the tokenizer cannot encode.
pub fn tokenize(
    task: &Task,
    split: ExampleSplit,
    chat: &Chat,
    max_tokens: usize,
) -> Result<Vec<TokenizedExample>> {
    let tokenized = |example: &Example| -> Result<TokenizedExample> {
        Ok(TokenizedExample {
            prompt: chat.prompt(&example.input)?,
            answer: chat.answer(&example.output)?,
        })
    };
    let all: Vec<_> = task.examples_of(split).map(tokenized).collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|e| e.prompt.len() + e.answer.len() <= max_tokens).collect())
}

/// What one step computes.
#[derive(Debug)]
pub struct TrainingBatch {
    /// One row per task.
    pub packed: PackedBatch,
    /// Description embedding of each row.
    pub embeddings: Vec<Vec<f32>>,
    /// Flat indices of the tokens that predict an answer token.
    pub predict_at: Vec<u32>,
    /// The answer tokens they should predict.
    pub targets: Vec<u32>,
    /// Weight of each: rows, examples of a row and tokens of an answer weigh equally; sums to 1.
    pub weights: Vec<f32>,
    /// Tokens computed, padding left out.
    pub tokens: usize,
}

impl TrainingBatch {
    /// Packs one row per task from `(examples, embedding)`.
    ///
    /// # Errors
    /// A task without examples.
    pub fn pack(rows: &[(Vec<&TokenizedExample>, Vec<f32>)]) -> Result<Self> {
        let mut packed = Vec::with_capacity(rows.len());
        let mut places = Vec::new(); // (row, first predicting token, answer, weight)
        for (index, (examples, _)) in rows.iter().enumerate() {
            let first = examples.first().context("a task without examples")?;
            let prompts: Vec<&[u32]> = examples.iter().map(|e| e.prompt.as_slice()).collect();
            let shared = shared_prefix(&prompts);
            let mut row = PackedRow::with_prefix(&first.prompt[..shared]);
            for (segment, example) in (1..).zip(examples) {
                let (prompt, answer) = (&example.prompt[shared..], &example.answer);
                let start = row.extend(prompt, segment, shared);
                // The end of the answer predicts nothing, so it is never an input.
                row.extend(&answer[..answer.len() - 1], segment, example.prompt.len());
                let weight = 1.0 / (rows.len() * examples.len() * answer.len()) as f32;
                places.push((index, start + prompt.len() - 1, answer, weight));
            }
            packed.push(row);
        }
        let tokens = packed.iter().map(PackedRow::len).sum();
        let packed = PackedBatch::new(&packed);
        let (mut predict_at, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, start, answer, weight) in places {
            for (offset, &token) in answer.iter().enumerate() {
                predict_at.push(u32::try_from(row * packed.width + start + offset)?);
                targets.push(token);
                weights.push(weight);
            }
        }
        let embeddings = rows.iter().map(|(_, embedding)| embedding.clone()).collect();
        Ok(Self { packed, embeddings, predict_at, targets, weights, tokens })
    }
}

/// Draws the batches of a run.
#[derive(Debug)]
pub struct Sampler<'a> {
    /// The tasks trained on.
    pub tasks: &'a [TaskData],
    /// Rows of a batch.
    pub tasks_per_batch: usize,
    /// Token budget of a row.
    pub row_tokens: usize,
    /// Most examples in a row.
    pub max_examples: usize,
    /// Seed of the run.
    pub seed: u64,
}

impl Sampler<'_> {
    /// The random numbers of a step, also for its dropout.
    pub fn rng(&self, step: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(step as u64 + 1);
        rng
    }

    /// The batch of a step: tasks in a new random order per epoch, a random description and random
    /// examples for each.
    ///
    /// # Errors
    /// A task without examples.
    pub fn batch(&self, step: usize, rng: &mut ChaCha8Rng) -> Result<TrainingBatch> {
        let rows: Vec<_> = (0..self.tasks_per_batch)
            .map(|k| {
                let task = &self.tasks[self.task_at(step * self.tasks_per_batch + k)];
                let description = rng.random_range(0..task.embeddings.len());
                (self.draw_examples(task, rng), task.embeddings[description].clone())
            })
            .collect();
        TrainingBatch::pack(&rows)
    }

    fn task_at(&self, index: usize) -> usize {
        let (epoch, place) = (index / self.tasks.len(), index % self.tasks.len());
        let mut order: Vec<usize> = (0..self.tasks.len()).collect();
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
        let (drawn, _) = order.partial_shuffle(rng, self.max_examples);
        fill_row(drawn.iter().map(|&i| &task.examples[i]), self.row_tokens)
    }
}

/// Takes examples while the row they make stays within `row_tokens`; always at least one.
pub fn fill_row<'t>(
    candidates: impl Iterator<Item = &'t TokenizedExample>,
    row_tokens: usize,
) -> Vec<&'t TokenizedExample> {
    let mut taken: Vec<&TokenizedExample> = Vec::new();
    for candidate in candidates {
        let mut with: Vec<&TokenizedExample> = taken.clone();
        with.push(candidate);
        let prompts: Vec<&[u32]> = with.iter().map(|e| e.prompt.as_slice()).collect();
        let shared = shared_prefix(&prompts);
        let own: usize = with.iter().map(|e| e.prompt.len() - shared + e.answer.len() - 1).sum();
        if taken.is_empty() || shared + own <= row_tokens {
            taken = with;
        } else if own > 2 * row_tokens {
            break;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::{Sampler, TaskData, TokenizedExample, TrainingBatch};

    fn example(prompt: &[u32], answer: &[u32]) -> TokenizedExample {
        TokenizedExample { prompt: prompt.to_vec(), answer: answer.to_vec() }
    }

    #[test]
    fn answers_are_predicted_from_the_last_prompt_token_on() {
        let (a, b) = (example(&[1, 2, 3], &[4, 9]), example(&[1, 2, 5, 6], &[9]));
        let batch = TrainingBatch::pack(&[(vec![&a, &b], vec![0.0])]).unwrap();
        // prefix 1 2 | 3 4 | 5 6
        assert_eq!(batch.packed.ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(batch.packed.positions, [0, 1, 2, 3, 2, 3]);
        assert_eq!(batch.predict_at, [2, 3, 5]);
        assert_eq!(batch.targets, [4, 9, 9]);
        assert_eq!(batch.weights, [0.25, 0.25, 0.5]);
    }

    #[test]
    fn batches_depend_on_seed_and_step_alone_and_keep_the_budget() {
        let task = |first: u32| TaskData {
            examples: (0..40).map(|i| example(&[1, first, i, i, i], &[i, 9])).collect(),
            embeddings: vec![vec![0.0], vec![1.0]],
        };
        let tasks = [task(2), task(3), task(4)];
        let sampler =
            Sampler { tasks: &tasks, tasks_per_batch: 2, row_tokens: 18, max_examples: 9, seed: 5 };
        let ids = |step| sampler.batch(step, &mut sampler.rng(step)).unwrap().packed.ids;
        assert_eq!(ids(7), ids(7));
        assert_ne!(ids(7), ids(8));
        let batch = sampler.batch(3, &mut sampler.rng(3)).unwrap();
        assert_eq!(batch.packed.width, 18); // 2 shared, 4 examples of 3 + 1
    }
}
