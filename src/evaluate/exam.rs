//! The questions of one task, and the score of a contestant's answers to them.
//!
//! In: a task and a [`Contestant`]. Out: its mean score over the examples, from 0 to 1, or nothing
//! where the contestant has no adapter or no shots for the task, or where the engine cannot run its
//! adapter.

use anyhow::{Result, bail, ensure};

use super::contestant::{AdapterSource, Contestant, PromptForm};
use super::engine::Engine;
use super::{EvaluateOptions, descriptions_of, score, shots};
use crate::base::chat::Chat;
use crate::taskpack::{Example, ExampleSplit, Metric, Task};

/// Longest prompt that is computed; what it costs grows with its square.
const MAX_PROMPT_TOKENS: usize = 16_384;

/// Most tokens of a free answer, however long the expected ones are.
const ANSWER_MAX_TOKENS: usize = 64;
/// Tokens that an answer may have beyond the longest expected one.
const ANSWER_SPARE_TOKENS: usize = 8;

/// What a contestant gets for an exam, each a mean over descriptions and examples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// From 0 to 1.
    pub(super) score: f64,
    /// Tokens of a prompt.
    pub(super) prompt_tokens: f64,
}

/// The questions of a task, with everything about them that is the same for all contestants.
pub(super) struct Exam<'a, E> {
    engine: &'a E,
    chat: &'a Chat,
    task: &'a Task,
    /// What stands for the task.
    descriptions: Vec<&'a str>,
    /// What is asked.
    pub examples: Vec<&'a Example>,
    /// Per example, the right answers; not used for choices.
    references: Vec<Vec<&'a str>>,
    /// Per example, the tokens of its choices, end of turn included; empty for free answers.
    choices: Vec<Vec<Vec<u32>>>,
    /// Cap on the tokens of a free answer.
    max_new_tokens: usize,
}

impl<'a, E: Engine> Exam<'a, E> {
    /// Prepares the first examples of a task.
    ///
    /// # Errors
    /// A task without examples in the split, text that the tokenizer cannot encode.
    pub(super) fn new(
        engine: &'a E,
        chat: &'a Chat,
        task: &'a Task,
        options: &EvaluateOptions,
    ) -> Result<Self> {
        let examples: Vec<&Example> =
            task.examples_of(options.split).take(options.examples).collect();
        ensure!(!examples.is_empty(), "no examples in the split `{}`", options.split.name());
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
        let descriptions = descriptions_of(task, options)?;
        Ok(Self { engine, chat, task, descriptions, examples, references, choices, max_new_tokens })
    }

    /// The marks of a contestant; `None` where it has no adapter that the engine can run, or no
    /// shots.
    ///
    /// # Errors
    /// An adapter that cannot be made or does not fit the base.
    pub(super) fn score(&self, contestant: &mut Contestant<'_>) -> Result<Option<Marks>> {
        let wordings = if contestant.is_described() { self.descriptions.len() } else { 1 };
        let mut scores = Vec::with_capacity(wordings * self.examples.len());
        let mut tokens = 0;
        for (number, description) in self.descriptions.iter().take(wordings).enumerate() {
            let Some(prompts) = self.prompts(contestant.prompt, description)? else {
                return Ok(None);
            };
            tokens += prompts.iter().map(Vec::len).sum::<usize>();
            match &mut contestant.adapter {
                AdapterSource::None => scores.extend(self.scores(0, &prompts, None)?),
                AdapterSource::PerTask(of) => {
                    let Some(adapter) = of(self.task)? else { return Ok(None) };
                    let Some(adapter) = self.engine.prepare(&adapter)? else { return Ok(None) };
                    scores.extend(self.scores(0, &prompts, Some(&adapter))?);
                }
                AdapterSource::PerDescription(of) => {
                    let adapter = of(self.task, number, description)?;
                    let Some(adapter) = self.engine.prepare(&adapter)? else { return Ok(None) };
                    scores.extend(self.scores(0, &prompts, Some(&adapter))?);
                }
                AdapterSource::PerExample(of) => {
                    for (index, (prompt, &example)) in
                        prompts.iter().zip(&self.examples).enumerate()
                    {
                        let Some(adapter) = of(self.task, example)? else { return Ok(None) };
                        let adapter = self.engine.prepare(&adapter)?;
                        let Some(adapter) = adapter else { return Ok(None) };
                        let prompt = std::slice::from_ref(prompt);
                        scores.extend(self.scores(index, prompt, Some(&adapter))?);
                    }
                }
            }
        }
        let count = scores.len() as f64;
        let score = scores.iter().sum::<f64>() / count;
        Ok(Some(Marks { score, prompt_tokens: tokens as f64 / count }))
    }

    /// Prompt tokens of every example; `None` where there are no shots to put into them.
    fn prompts(&self, form: PromptForm, description: &str) -> Result<Option<Vec<Vec<u32>>>> {
        let examples = self.examples.iter();
        let prompts: Result<Vec<Vec<u32>>> = match form {
            PromptForm::Plain => examples.map(|example| self.chat.prompt(&example.input)).collect(),
            PromptForm::Described => examples
                .map(|example| self.chat.prompt(&format!("{description}\n\n{}", example.input)))
                .collect(),
            PromptForm::Shots(count) => {
                let train = self.task.examples_of(ExampleSplit::Train);
                let solved: Vec<&Example> = train.take(count).collect();
                if solved.is_empty() {
                    return Ok(None);
                }
                examples.map(|e| shots::prompt(self.chat, &solved, &e.input)).collect()
            }
        };
        let prompts = prompts?;
        if let Some(long) = prompts.iter().map(Vec::len).find(|len| *len > MAX_PROMPT_TOKENS) {
            bail!("a prompt of {long} tokens, at most {MAX_PROMPT_TOKENS} are computed");
        }
        Ok(Some(prompts))
    }

    /// Scores of as many examples as there are prompts, from the example `first` on, all of them
    /// under one adapter.
    fn scores(
        &self,
        first: usize,
        prompts: &[Vec<u32>],
        adapter: Option<&E::Prepared>,
    ) -> Result<Vec<f64>> {
        match self.task.metric {
            Metric::ChoiceAccuracy => self.choice_scores(first, prompts, adapter),
            Metric::ExactMatch => {
                self.free_scores(first, prompts, adapter, true, |answer, references| {
                    f64::from(u8::from(score::exact_match(answer, references)))
                })
            }
            Metric::RougeL => self.free_scores(first, prompts, adapter, false, score::rouge_l),
        }
    }

    fn choice_scores(
        &self,
        first: usize,
        prompts: &[Vec<u32>],
        adapter: Option<&E::Prepared>,
    ) -> Result<Vec<f64>> {
        let choices = &self.choices[first..first + prompts.len()];
        let likelihoods = self.engine.log_likelihoods(prompts, choices, adapter)?;
        // An adapter that computes nothing must not be given the first choice.
        ensure!(!likelihoods.iter().flatten().any(|x| x.is_nan()), "a choice's likelihood is NaN");
        let right = |(example, likelihoods): (&&Example, &Vec<f64>)| {
            let choice = score::likeliest(likelihoods);
            let choice = choice.and_then(|index| self.task.choices(example).get(index));
            f64::from(u8::from(choice == Some(&example.output)))
        };
        Ok(self.examples[first..].iter().zip(&likelihoods).map(right).collect())
    }

    /// With `exact`, an answer is given up as soon as it cannot match any more.
    fn free_scores(
        &self,
        first: usize,
        prompts: &[Vec<u32>],
        adapter: Option<&E::Prepared>,
        exact: bool,
        score_one: impl Fn(&str, &[&str]) -> f64,
    ) -> Result<Vec<f64>> {
        let references = &self.references[first..first + prompts.len()];
        let mut keep_going = |index: usize, tokens: &[u32]| -> Result<bool> {
            Ok(!exact || score::can_still_match(&self.chat.text(tokens)?, &references[index]))
        };
        let (most, engine) = (self.max_new_tokens, self.engine);
        let answers = engine.answers(prompts, adapter, most, &mut keep_going)?;
        let of = |(tokens, references): (&Vec<u32>, &Vec<&str>)| -> Result<f64> {
            Ok(score_one(&self.chat.text(tokens)?, references))
        };
        answers.iter().zip(references).map(of).collect()
    }
}

/// Everything that is a right answer to an example.
fn references(example: &Example) -> impl Iterator<Item = &str> {
    std::iter::once(&example.output).chain(&example.refs).map(String::as_str)
}
