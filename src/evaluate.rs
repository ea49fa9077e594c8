//! How well adapters compiled from descriptions solve tasks that no hypernetwork was trained on.
//!
//! In: the base, its chat format, a task pack and a function that compiles a description. Out: an
//! [`Evaluation`], the mean score of every held-out task under the four [`Condition`]s, from 0
//! to 1. Scoring rules are in `evaluate/score.rs`.
//!
//! Free answers are decoded greedily and end at the end of turn, or after
//! `min(64, longest expected answer of the task + 8)` tokens; what there is by then is scored.
//! Choices are compared by the sum of the log-probabilities of their tokens and the end of turn.
//!
//! Everything but the adapters is a function of the base, the pack and the options.

mod choices;
mod condition;
mod greedy;
mod report;
mod score;
#[cfg(test)]
mod tiny_model;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use t2lc_runtime::digest::Digest;

use crate::base::adapter::LoraBatch;
use crate::base::chat::Chat;
use crate::base::decoder::Decoder;
use crate::taskpack::{Example, ExampleSplit, Metric, Task, TaskPack, TaskSplit};

pub use condition::{Condition, PerCondition};
pub use report::{Estimate, Evaluation, TaskScores, TierScores};

use greedy::Greedy;

/// Most tokens of one forward pass, about; attention is quadratic in the length of a row.
const ROW_TOKENS: usize = 1200;
/// Most tokens of a free answer, however long the expected ones are.
const ANSWER_MAX_TOKENS: usize = 64;
/// Tokens that an answer may have beyond the longest expected one.
const ANSWER_SPARE_TOKENS: usize = 8;
/// Characters of the text that stands in for a description.
const RANDOM_TEXT_LEN: usize = 24;

/// What is evaluated.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Examples per task, the first ones in file order; a task may have fewer.
    pub examples: usize,
    /// Seed of the random texts and of the bootstrap.
    pub seed: u64,
    /// Which examples: `valid` while tuning, `test` for what is reported.
    pub split: ExampleSplit,
}

/// Scores every held-out task of a pack under every condition.
///
/// `compile` gets the raw text of a description and returns its adapter, with one row. It is called
/// twice a task: for the evaluation description and for a random text. `progress` gets one line of
/// text per finished task.
///
/// # Errors
/// A pack without held-out tasks, a task without examples in the split, a description that does not
/// compile, an adapter that does not fit the base.
pub fn evaluate(
    decoder: &Decoder,
    chat: &Chat,
    pack: &TaskPack,
    compile: &mut dyn FnMut(&str) -> Result<LoraBatch>,
    options: &EvaluateOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Evaluation> {
    ensure!(options.examples > 0, "no examples per task were asked for, expected at least 1");
    let tasks: Vec<&Task> = pack.tasks_of(TaskSplit::Heldout).collect();
    ensure!(!tasks.is_empty(), "the task pack has no held-out task");
    let mut scored = Vec::with_capacity(tasks.len());
    for (number, &task) in (1..).zip(&tasks) {
        let of_task = evaluate_task(decoder, chat, task, compile, options)
            .with_context(|| format!("cannot evaluate task `{}`", task.id))?;
        progress(&format!("{number}/{} {}", tasks.len(), of_task.summary()));
        scored.push(of_task);
    }
    Ok(Evaluation::new(pack.digest.to_string(), options, scored))
}

fn evaluate_task(
    decoder: &Decoder,
    chat: &Chat,
    task: &Task,
    compile: &mut dyn FnMut(&str) -> Result<LoraBatch>,
    options: &EvaluateOptions,
) -> Result<TaskScores> {
    let exam = Exam::new(decoder, chat, task, options)?;
    let description = task.evaluation_description().context("the task has no description")?;
    let plain = exam.prompts(|example| example.input.clone())?;
    let mut compiled = |text: &str| {
        compile(text).with_context(|| format!("cannot compile the description `{text}`"))
    };
    let scores = PerCondition::try_from_fn(|condition| match condition {
        Condition::Base => exam.score(&plain, None),
        Condition::Prompted => {
            let prompted = exam.prompts(|example| format!("{description}\n\n{}", example.input))?;
            exam.score(&prompted, None)
        }
        Condition::Compiled => exam.score(&plain, Some(&compiled(description)?)),
        Condition::Random => {
            exam.score(&plain, Some(&compiled(&random_text(options.seed, &task.id))?))
        }
    })?;
    Ok(TaskScores {
        id: task.id.clone(),
        tier: task.tier.clone().unwrap_or_default(),
        metric: metric_name(task.metric).into(),
        examples: exam.examples.len(),
        scores,
    })
}

/// The questions of a task, with everything about them that is the same in all conditions.
struct Exam<'a> {
    decoder: &'a Decoder,
    chat: &'a Chat,
    task: &'a Task,
    examples: Vec<&'a Example>,
    /// Per example, the right answers; not used for choices.
    references: Vec<Vec<&'a str>>,
    /// Per example, the tokens of its choices, end of turn included; empty for free answers.
    choices: Vec<Vec<Vec<u32>>>,
    /// Cap on the tokens of a free answer.
    max_new_tokens: usize,
}

impl<'a> Exam<'a> {
    fn new(
        decoder: &'a Decoder,
        chat: &'a Chat,
        task: &'a Task,
        options: &EvaluateOptions,
    ) -> Result<Self> {
        let examples: Vec<&Example> =
            task.examples_of(options.split).take(options.examples).collect();
        ensure!(!examples.is_empty(), "no examples in the split `{}`", split_name(options.split));
        let (mut choices, mut max_new_tokens) = (Vec::new(), 0_usize);
        if task.metric == Metric::ChoiceAccuracy {
            for example in &examples {
                let of = task.choices(example).iter().map(|text| chat.answer(text));
                choices.push(of.collect::<Result<_>>()?);
            }
        } else {
            // All examples of the split count, so that the cap does not depend on their number.
            for text in task.examples_of(options.split).flat_map(references) {
                max_new_tokens = max_new_tokens.max(chat.tokens(text)?.len());
            }
            max_new_tokens = (max_new_tokens + ANSWER_SPARE_TOKENS).min(ANSWER_MAX_TOKENS);
        }
        let references = examples.iter().map(|example| references(example).collect()).collect();
        Ok(Self { decoder, chat, task, examples, references, choices, max_new_tokens })
    }

    /// Prompt tokens of every example, from the user message that `message` makes of it.
    fn prompts(&self, message: impl Fn(&Example) -> String) -> Result<Vec<Vec<u32>>> {
        self.examples.iter().map(|&example| self.chat.prompt(&message(example))).collect()
    }

    /// Mean score, from 0 to 1.
    fn score(&self, prompts: &[Vec<u32>], adapter: Option<&LoraBatch>) -> Result<f64> {
        let scores = match self.task.metric {
            Metric::ChoiceAccuracy => self.choice_scores(prompts, adapter)?,
            Metric::ExactMatch => {
                self.free_scores(prompts, adapter, true, |answer, references| {
                    f64::from(u8::from(score::exact_match(answer, references)))
                })?
            }
            Metric::RougeL => self.free_scores(prompts, adapter, false, score::rouge_l)?,
        };
        Ok(scores.iter().sum::<f64>() / scores.len() as f64)
    }

    fn choice_scores(&self, prompts: &[Vec<u32>], adapter: Option<&LoraBatch>) -> Result<Vec<f64>> {
        let likelihoods =
            choices::log_likelihoods(self.decoder, adapter, prompts, &self.choices, ROW_TOKENS)?;
        let right = |(example, likelihoods): (&&Example, &Vec<f64>)| {
            let choice = score::likeliest(likelihoods);
            let choice = choice.and_then(|index| self.task.choices(example).get(index));
            f64::from(u8::from(choice == Some(&example.output)))
        };
        Ok(self.examples.iter().zip(&likelihoods).map(right).collect())
    }

    /// With `exact`, an answer is given up as soon as it cannot match any more.
    fn free_scores(
        &self,
        prompts: &[Vec<u32>],
        adapter: Option<&LoraBatch>,
        exact: bool,
        score_one: impl Fn(&str, &[&str]) -> f64,
    ) -> Result<Vec<f64>> {
        let greedy = Greedy {
            decoder: self.decoder,
            adapter,
            end_of_turn: self.chat.end_of_turn,
            max_new_tokens: self.max_new_tokens,
            row_tokens: ROW_TOKENS,
        };
        let answers = greedy.answers(prompts, &mut |index, tokens| {
            Ok(!exact || score::can_still_match(&self.chat.text(tokens)?, &self.references[index]))
        })?;
        let of = |(tokens, references): (&Vec<u32>, &Vec<&str>)| -> Result<f64> {
            Ok(score_one(&self.chat.text(tokens)?, references))
        };
        answers.iter().zip(&self.references).map(of).collect()
    }
}

/// Everything that is a right answer to an example.
fn references(example: &Example) -> impl Iterator<Item = &str> {
    std::iter::once(&example.output).chain(&example.refs).map(String::as_str)
}

/// A text without meaning, the same for the same seed and task: lower-case letters, digits, spaces.
fn random_text(seed: u64, task_id: &str) -> String {
    const ALPHABET: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz0123456789 ";
    let digest = Digest::of(task_id.as_bytes());
    let mut stream = [0; 8];
    stream.copy_from_slice(&digest.as_bytes()[..8]);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from_le_bytes(stream));
    let mut draw = || char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
    (0..RANDOM_TEXT_LEN).map(|_| draw()).collect()
}

/// The pack's name of a metric.
fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::ExactMatch => "exact_match",
        Metric::ChoiceAccuracy => "choice_accuracy",
        Metric::RougeL => "rouge_l",
    }
}

/// The pack's name of a split.
fn split_name(split: ExampleSplit) -> &'static str {
    match split {
        ExampleSplit::Train => "train",
        ExampleSplit::Valid => "valid",
        ExampleSplit::Test => "test",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::tiny_model::{TinyModel, adapter};
    use super::{EvaluateOptions, Evaluation, PerCondition, evaluate, random_text};
    use crate::taskpack::{ExampleSplit, TaskPack};

    fn write_pack(dir: &Path) -> TaskPack {
        let index = r#"{"tasks": [
            {"id": "spell", "licence": "MIT", "split": "heldout", "tier": "near",
             "metric": "exact_match", "descriptions": ["used", "spell it"],
             "eval_description_ids": [1], "file": "spell.jsonl"},
            {"id": "pick", "licence": "MIT", "split": "heldout", "tier": "sibling",
             "metric": "choice_accuracy", "descriptions": ["pick one"],
             "labels": ["yes", "no", "maybe"], "file": "pick.jsonl"},
            {"id": "say", "licence": "MIT", "split": "heldout", "tier": "far",
             "metric": "rouge_l", "descriptions": ["say more"], "file": "say.jsonl"},
            {"id": "seen", "licence": "MIT", "split": "train", "metric": "exact_match",
             "descriptions": ["x"], "file": "seen.jsonl"}]}"#;
        let line = |input: &str, output: &str| {
            format!("{{\"split\":\"test\",\"input\":\"{input}\",\"output\":\"{output}\"}}\n")
        };
        let lines = |output: &str| line("a dog", output) + &line("the cat", output);
        std::fs::write(dir.join("tasks.json"), index).unwrap();
        std::fs::write(dir.join("spell.jsonl"), lines("c a t")).unwrap();
        std::fs::write(dir.join("pick.jsonl"), lines("no") + &line("a hen", "yes")).unwrap();
        std::fs::write(dir.join("say.jsonl"), lines("a b c d e f g h i j k")).unwrap();
        std::fs::write(dir.join("seen.jsonl"), lines("x")).unwrap();
        TaskPack::load(dir).unwrap()
    }

    fn run(
        model: &TinyModel,
        pack: &TaskPack,
        size: f32,
    ) -> (Evaluation, Vec<String>, Vec<String>) {
        let (mut texts, mut lines) = (Vec::new(), Vec::new());
        let options = EvaluateOptions { examples: 2, seed: 3, split: ExampleSplit::Test };
        let evaluation = evaluate(
            &model.decoder,
            &model.chat,
            pack,
            &mut |text| {
                texts.push(text.to_owned());
                Ok(adapter(size))
            },
            &options,
            &mut |line| lines.push(line.to_owned()),
        )
        .unwrap();
        (evaluation, texts, lines)
    }

    #[test]
    fn held_out_tasks_are_scored_in_all_conditions() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, model) = (write_pack(dir.path()), TinyModel::new());
        let (evaluation, texts, lines) = run(&model, &pack, 0.0);
        let ids: Vec<&str> = evaluation.tasks.iter().map(|t| t.id.as_str()).collect();
        assert_eq!(ids, ["spell", "pick", "say"]);
        let tiers: Vec<&str> = evaluation.tiers.iter().map(|t| t.tier.as_str()).collect();
        assert_eq!(tiers, ["sibling", "near", "far"]);
        let random = |id| random_text(3, id);
        let expected = [
            "spell it".to_owned(),
            random("spell"),
            "pick one".to_owned(),
            random("pick"),
            "say more".to_owned(),
            random("say"),
        ];
        assert_eq!(texts, expected);
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with("3/3 say (far, rouge_l, 2 examples): base "), "{}", lines[2]);
        for task in &evaluation.tasks {
            // An adapter of zeros changes nothing.
            let PerCondition { base, compiled, random, .. } = task.scores;
            assert_eq!([compiled, random].map(f64::to_bits), [base; 2].map(f64::to_bits));
            assert!((0.0..=1.0).contains(&task.scores.prompted), "{}", task.id);
            assert_eq!(task.examples, 2);
        }
    }

    #[test]
    fn an_evaluation_can_be_repeated_and_survives_json() {
        let dir = tempfile::tempdir().unwrap();
        let (pack, model) = (write_pack(dir.path()), TinyModel::new());
        let (first, ..) = run(&model, &pack, 1.0);
        let (second, ..) = run(&model, &pack, 1.0);
        assert_eq!(first, second);
        let json = serde_json::to_string(&first).unwrap();
        let read: Evaluation = serde_json::from_str(&json).unwrap();
        assert_eq!(read.markdown(), first.markdown());
    }

    #[test]
    fn random_texts_depend_on_seed_and_task() {
        let text = random_text(1, "a");
        assert_eq!(text, random_text(1, "a"));
        assert_ne!(text, random_text(2, "a"));
        assert_ne!(text, random_text(1, "b"));
        assert_eq!(text.len(), 24);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b' '));
    }
}
