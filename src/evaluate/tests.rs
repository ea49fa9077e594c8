//! Whole evaluations with a tiny model: who is asked for adapters, and what becomes of missing ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use t2lc_runtime::describe::Description;

use super::contestant::random_text;
use super::tiny_model::{TinyModel, adapter};
use super::{
    AdapterData, AdapterSource, CandleEngine, Compile, Contestant, Engine, EngineKind,
    EvaluateOptions, Evaluation, KeepGoing, PromptForm, evaluate,
};
use crate::taskpack::{Example, ExampleSplit, Task, TaskPack, Wording};

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
         "descriptions": ["x", "y"], "eval_description_ids": [1], "file": "seen.jsonl"}]}"#;
    let of = |split: &str, input: &str, output: &str| {
        format!("{{\"split\":\"{split}\",\"input\":\"{input}\",\"output\":\"{output}\"}}\n")
    };
    let line = |input: &str, output: &str| of("test", input, output);
    let lines = |output: &str| line("a dog", output) + &line("the cat", output);
    std::fs::write(dir.join("tasks.json"), index).unwrap();
    let spell = of("train", "the hen", "h e n") + &lines("c a t");
    std::fs::write(dir.join("spell.jsonl"), spell).unwrap();
    std::fs::write(dir.join("pick.jsonl"), lines("no") + &line("a hen", "yes")).unwrap();
    std::fs::write(dir.join("say.jsonl"), lines("a b c d e f g h i j k")).unwrap();
    std::fs::write(dir.join("seen.jsonl"), lines("x")).unwrap();
    TaskPack::load(dir).unwrap()
}

fn options(reference: &str) -> EvaluateOptions {
    EvaluateOptions {
        base: "sha256:base".into(),
        examples: 2,
        seed: 3,
        split: ExampleSplit::Test,
        tasks: Vec::new(),
        wording: Wording::Unseen,
        descriptions: 1,
        reference: reference.into(),
        earlier: None,
    }
}

/// A fresh pack and model; the evaluation and the lines of its progress.
fn run(
    contestants: &mut [Contestant<'_>],
    options: &EvaluateOptions,
) -> Result<(Evaluation, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let (pack, model) = (write_pack(dir.path()), TinyModel::new());
    let mut lines = Vec::new();
    let mut progress = |line: &str| lines.push(line.to_owned());
    let engine = CandleEngine::new(&model.decoder, &model.chat.ends);
    let evaluation = evaluate(&engine, &model.chat, &pack, contestants, options, &mut progress)?;
    Ok((evaluation, lines))
}

fn refusal(contestants: &mut [Contestant<'_>], options: &EvaluateOptions) -> String {
    format!("{:#}", run(contestants, options).unwrap_err())
}

fn delta(size: f32) -> AdapterData {
    AdapterData::Delta(Rc::new(adapter(size)))
}

/// Compiles every text into the same adapter, and notes the texts.
fn compile(size: f32, texts: &Rc<RefCell<Vec<String>>>) -> Compile<'static> {
    let texts = Rc::clone(texts);
    Rc::new(move |text: &str| -> Result<AdapterData> {
        texts.borrow_mut().push(text.to_owned());
        Ok(delta(size))
    })
}

/// The scores of one contestant on every task.
fn scores(evaluation: &Evaluation, name: &str) -> Vec<Option<f64>> {
    evaluation.tasks.iter().map(|task| task.score(name)).collect()
}

#[test]
fn held_out_tasks_are_scored_for_all_contestants() {
    let texts = Rc::default();
    let compile = compile(0.0, &texts);
    let mut contestants = [
        Contestant::base(),
        Contestant::prompted(),
        Contestant::compiled(Rc::clone(&compile)),
        Contestant::random(compile, 3),
    ];
    let (evaluation, lines) = run(&mut contestants, &options("compiled")).unwrap();
    let ids: Vec<&str> = evaluation.tasks.iter().map(|t| t.id.as_str()).collect();
    assert_eq!(ids, ["spell", "pick", "say"]);
    let tiers: Vec<&str> = evaluation.tiers.iter().map(|t| t.tier.as_str()).collect();
    assert_eq!(tiers, ["sibling", "near", "far"]);
    let random = |id| random_text(3, id, 0);
    let expected = [
        "spell it".to_owned(),
        random("spell"),
        "pick one".to_owned(),
        random("pick"),
        "say more".to_owned(),
        random("say"),
    ];
    assert_eq!(*texts.borrow(), expected);
    assert_eq!(lines.len(), 3);
    assert!(lines[2].starts_with("3/3 say (far, rouge_l, 2 examples): base "), "{}", lines[2]);
    // An adapter of zeros changes nothing.
    assert_eq!(scores(&evaluation, "compiled"), scores(&evaluation, "base"));
    assert_eq!(scores(&evaluation, "random"), scores(&evaluation, "base"));
    for task in &evaluation.tasks {
        assert!((0.0..=1.0).contains(&task.score("prompted").unwrap()), "{}", task.id);
        assert_eq!(task.examples, 2);
    }
    let compared: Vec<&str> =
        evaluation.overall.differences.iter().map(|mean| mean.name.as_str()).collect();
    assert_eq!(compared, ["base", "prompted", "random"]);
}

#[test]
fn an_evaluation_can_be_repeated_and_survives_json() {
    let evaluation = || {
        let mut contestants =
            [Contestant::base(), Contestant::shared("adapter", PromptForm::Described, delta(1.0))];
        run(&mut contestants, &options("base")).unwrap().0
    };
    let first = evaluation();
    assert_eq!(first, evaluation());
    let json = serde_json::to_string(&first).unwrap();
    let read: Evaluation = serde_json::from_str(&json).unwrap();
    assert_eq!(read.markdown(), first.markdown());
}

#[test]
fn tasks_without_an_adapter_have_no_score() {
    let adapters = BTreeMap::from([("pick".to_owned(), delta(0.0))]);
    let mut contestants = [Contestant::base(), Contestant::by_task("oracle", adapters)];
    let (evaluation, lines) = run(&mut contestants, &options("base")).unwrap();
    let base = evaluation.tasks[1].score("base");
    assert_eq!(scores(&evaluation, "oracle"), [None, base, None]);
    assert_eq!(evaluation.overall.scores[1].tasks, 1);
    assert_eq!(evaluation.overall.scores[1].estimate.map(|estimate| estimate.mean), base);
    assert_eq!(evaluation.overall.differences[0].estimate.map(|e| e.mean), Some(0.0));
    assert!(lines[0].ends_with("oracle –"), "{}", lines[0]);
    assert!(evaluation.markdown().contains("(n): over the n tasks"));
}

/// Answers with nothing, likes the first choice best, and runs files only.
struct FilesOnly;

impl Engine for FilesOnly {
    type Prepared = ();

    fn kind(&self) -> EngineKind {
        EngineKind::LlamaCpp
    }

    fn prepare(&self, adapter: &AdapterData) -> Result<Option<()>> {
        Ok((!matches!(adapter, AdapterData::Delta(_))).then_some(()))
    }

    fn answers(
        &self,
        prompts: &[Vec<u32>],
        _: Option<&()>,
        _: usize,
        _: KeepGoing<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        Ok(vec![Vec::new(); prompts.len()])
    }

    fn log_likelihoods(
        &self,
        _: &[Vec<u32>],
        choices: &[Vec<Vec<u32>>],
        _: Option<&()>,
    ) -> Result<Vec<Vec<f64>>> {
        Ok(choices.iter().map(|choices| vec![-1.0; choices.len()]).collect())
    }
}

#[test]
fn adapters_that_the_engine_cannot_run_have_no_score() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, chat) = (write_pack(dir.path()), TinyModel::new().chat);
    let texts = Rc::default();
    let adapter = |_: &Task, _: &Example| -> Result<Option<AdapterData>> { Ok(Some(delta(1.0))) };
    let mut contestants = [
        Contestant::base(),
        Contestant::shared("shared", PromptForm::Plain, delta(1.0)),
        Contestant::compiled(compile(1.0, &texts)),
        Contestant {
            name: "own".into(),
            prompt: PromptForm::Plain,
            adapter: AdapterSource::PerExample(Box::new(adapter)),
        },
    ];
    let options = options("base");
    let evaluation =
        evaluate(&FilesOnly, &chat, &pack, &mut contestants, &options, &mut |_| {}).unwrap();
    assert_eq!(evaluation.engine, "llama.cpp");
    assert_eq!(scores(&evaluation, "base"), [Some(0.0); 3]);
    for name in ["shared", "compiled", "own"] {
        assert_eq!(scores(&evaluation, name), [None; 3], "{name}");
    }
    assert!(evaluation.markdown().contains("the engine cannot run the adapter"));
}

#[test]
fn examples_may_have_adapters_of_their_own() {
    let texts = Rc::default();
    let mut contestants = [
        Contestant::shared("shared", PromptForm::Plain, delta(1.0)),
        Contestant::per_input("per input", compile(1.0, &texts)),
    ];
    let (evaluation, _) = run(&mut contestants, &options("shared")).unwrap();
    assert_eq!(*texts.borrow(), ["a dog", "the cat"].repeat(3));
    // Here all of them have the same one, so one by one is as good as all at once.
    assert_eq!(scores(&evaluation, "per input"), scores(&evaluation, "shared"));
}

#[test]
fn an_input_that_is_no_description_has_no_adapter() {
    let refusing: Compile<'_> = Rc::new(|text: &str| {
        Description::new(&text.repeat(5000))?;
        Ok(delta(1.0))
    });
    let mut contestants = [
        Contestant::shared("shared", PromptForm::Plain, delta(1.0)),
        Contestant::per_input("per input", refusing),
    ];
    let (evaluation, _) = run(&mut contestants, &options("shared")).unwrap();
    assert_eq!(scores(&evaluation, "per input"), [None; 3]);
}

#[test]
fn an_adapter_sees_its_task_and_example() {
    let mut seen = Vec::new();
    let adapter = |task: &Task, example: &Example| -> Result<Option<AdapterData>> {
        seen.push(format!("{} {}", task.id, example.output));
        Ok(Some(delta(0.0)))
    };
    let mut contestants = [Contestant {
        name: "own".into(),
        prompt: PromptForm::Plain,
        adapter: AdapterSource::PerExample(Box::new(adapter)),
    }];
    let options = EvaluateOptions { tasks: vec!["pick".into()], examples: 3, ..options("own") };
    run(&mut contestants, &options).unwrap();
    drop(contestants);
    assert_eq!(seen, ["pick no", "pick no", "pick yes"]);
}

#[test]
fn scores_are_means_over_the_descriptions() {
    let texts = Rc::default();
    let adapter = |_: &Task, number: usize, _: &str| Ok(delta(number as f32));
    let mut contestants = [
        Contestant::compiled(compile(0.0, &texts)),
        Contestant::per_description("own", adapter),
        Contestant::shared("first", PromptForm::Plain, delta(0.0)),
        Contestant::shared("second", PromptForm::Plain, delta(1.0)),
    ];
    let tasks = vec!["say".into(), "spell".into()];
    let both = EvaluateOptions { descriptions: 2, tasks, ..options("first") };
    let (evaluation, _) = run(&mut contestants, &both).unwrap();
    // One task has a single description.
    assert_eq!(*texts.borrow(), ["say more", "spell it", "used"]);
    let score = |name, task: usize| evaluation.tasks[task].score(name).unwrap();
    let is = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got}");
    is(score("own", 0), score("first", 0));
    is(score("own", 1), f64::midpoint(score("first", 1), score("second", 1)));

    texts.borrow_mut().clear();
    let seen = EvaluateOptions { wording: Wording::Training, ..both };
    run(&mut contestants, &seen).unwrap();
    assert_eq!(*texts.borrow(), ["say more", "used"]);
}

#[test]
fn shots_come_from_the_training_examples() {
    let mut contestants = [Contestant::base(), Contestant::shots(4)];
    let (evaluation, _) = run(&mut contestants, &options("base")).unwrap();
    let shots = scores(&evaluation, "4-shot");
    assert!(shots[0].is_some());
    // The other tasks have no training examples.
    assert_eq!(shots[1..], [None, None]);

    let split = EvaluateOptions { split: ExampleSplit::Train, ..options("base") };
    let error = refusal(&mut contestants, &split);
    assert!(error.contains("the answers of the split `train`"), "{error}");
    let mut none = [Contestant::shots(0)];
    let error = refusal(&mut none, &options("0-shot"));
    assert_eq!(error, "contestant `0-shot` has 0 shots, expected at least 1");
}

#[test]
fn any_tasks_can_be_chosen() {
    let mut contestants = [Contestant::base()];
    let chosen = |ids: &[&str]| EvaluateOptions {
        tasks: ids.iter().map(|&id| id.to_owned()).collect(),
        ..options("base")
    };
    let (evaluation, _) = run(&mut contestants, &chosen(&["say", "seen"])).unwrap();
    let tasks: Vec<_> =
        evaluation.tasks.iter().map(|task| (task.id.as_str(), task.tier.as_str())).collect();
    assert_eq!(tasks, [("say", "far"), ("seen", "train")]);
    let tiers: Vec<&str> = evaluation.tiers.iter().map(|tier| tier.tier.as_str()).collect();
    assert_eq!(tiers, ["train", "far"]);

    let error = refusal(&mut contestants, &chosen(&["x", "say", "y"]));
    assert_eq!(error, "the task pack has no task `x`, `y`");
    let error = refusal(&mut contestants, &chosen(&["say", "say"]));
    assert_eq!(error, "task `say` is asked for twice");
}

#[test]
fn names_tell_contestants_apart() {
    let mut twice = [Contestant::base(), Contestant::base()];
    assert_eq!(refusal(&mut twice, &options("base")), "two contestants are called `base`");
    let mut contestants = [Contestant::base(), Contestant::prompted()];
    assert_eq!(
        refusal(&mut contestants, &options("compiled")),
        "no contestant is called `compiled`, expected one of base, prompted"
    );
}
