//! Texts that describe no task. What an adapter for them should do is nothing.
//!
//! In: a task pack, the text encoder and a seed. Out: embeddings of as many random strings as of
//! inputs of training tasks. A few of them go into every batch, and the adapters that they get are
//! drawn to `lora_b` = 0, so that a text that means nothing leaves the base alone. They cost no
//! pass through the base. A text encoder that is trained as well does not learn from them.

use anyhow::Result;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::embed::DescriptionEncoder;
use crate::taskpack::TaskPack;

/// Texts that are drawn from, half of either kind.
const TEXTS: usize = 400;
/// Stream of the seed's random numbers that the texts come from; batches have others.
const STREAM: u64 = 1 << 40;
/// What random strings are made of, one line each.
const ALPHABETS: [&str; 3] = [
    "abcdefghijklmnopqrstuvwxyz ",
    "abcdefghijklmnopqrstuvwxyz0123456789 ",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,;:-_+*#/=()[]{}<>!?%&$@",
];

/// How much texts that describe no task count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct NonsenseOptions {
    /// Texts that describe no task, per batch; 0 leaves them out
    #[arg(long, default_value_t = 4)]
    pub nonsense_per_batch: usize,
    /// Weight of the mean square of what `lora_b` is for them in the loss
    #[arg(long, default_value_t = 30.0)]
    pub nonsense_decay: f32,
}

/// Texts that describe no task, as conditions.
#[derive(Debug)]
pub struct Nonsense {
    conditions: Vec<Condition>,
    per_batch: usize,
    /// Weight of the mean square of their `lora_b` in the loss.
    pub decay: f32,
}

impl Nonsense {
    /// Draws the texts; `None` where the options leave them out.
    ///
    /// # Errors
    /// Text the encoder cannot read.
    pub fn of_pack(
        pack: &TaskPack,
        encoder: &DescriptionEncoder,
        options: &NonsenseOptions,
        seed: u64,
    ) -> Result<Option<Self>> {
        let NonsenseOptions { nonsense_per_batch: per_batch, nonsense_decay: decay } = *options;
        if per_batch == 0 {
            return Ok(None);
        }
        let texts = texts(pack, seed);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let of_no_task = |condition| match condition {
            Condition::Tokens(tokens) => Condition::NoTask(tokens),
            other => other,
        };
        let conditions = encoder.conditions(&texts)?.into_iter().map(of_no_task).collect();
        Ok(Some(Self { conditions, per_batch, decay }))
    }

    /// Those of one batch.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<Condition> {
        self.conditions.choose_multiple(rng, self.per_batch).cloned().collect()
    }
}

/// Random strings and inputs in turn; fewer where the tasks have few inputs.
fn texts(pack: &TaskPack, seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(STREAM);
    let inputs: Vec<&str> = pack.inputs_like_descriptions().collect();
    let inputs: Vec<&&str> = inputs.choose_multiple(&mut rng, TEXTS / 2).collect();
    let random: Vec<String> = (0..TEXTS / 2).map(|_| random_text(&mut rng)).collect();
    random.into_iter().chain(inputs.into_iter().map(|input| (*input).to_owned())).collect()
}

/// 4 to 48 characters of one alphabet, not blank.
fn random_text(rng: &mut ChaCha8Rng) -> String {
    let alphabet = ALPHABETS[rng.random_range(0..ALPHABETS.len())].as_bytes();
    let length = rng.random_range(4..=48);
    let mut text: String =
        (0..length).map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())])).collect();
    if text.trim().is_empty() {
        text.push('x');
    }
    text
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::digest::Digest;

    use super::{TEXTS, texts};
    use crate::taskpack::{Example, ExampleSplit, Metric, Task, TaskPack};

    #[test]
    fn half_are_random_and_half_are_inputs_that_could_name_no_task() {
        let example = |input: &str| Example {
            split: ExampleSplit::Train,
            input: input.into(),
            output: "yes".into(),
            choices: Vec::new(),
            refs: Vec::new(),
        };
        let examples = vec![example("is it raining in Rome"), example("plural")];
        let task = Task::new("t", "MIT", Metric::ExactMatch, vec!["d".into()], examples);
        let pack = TaskPack { tasks: vec![task], digest: Digest::of(b"") };
        let found = texts(&pack, 3);
        assert_eq!(found, texts(&pack, 3));
        assert_ne!(found, texts(&pack, 4));
        assert_eq!(found.len(), TEXTS / 2 + 1);
        assert_eq!(found.last().unwrap(), "is it raining in Rome");
        assert!(found.iter().all(|text| !text.trim().is_empty()));
    }
}
