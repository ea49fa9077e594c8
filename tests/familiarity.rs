//! The warning about descriptions that are unlike anything seen in training: how often the default
//! bundle gives it to real descriptions of tasks that no training saw, and to texts that describe
//! nothing.

#![cfg(feature = "embedded-bundle")]
// The helpers of a test fail as a test does; the shares are worth seeing with --nocapture.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;

use t2lc::taskpack::{ExampleSplit, Task, TaskPack, TaskSplit};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;
use t2lc_runtime::nearest::TaskTable;

/// Requests in other languages: the text encoder reads English only.
const OTHER_LANGUAGES: [&str; 16] = [
    "Fasse den juristischen Text in einem einfachen Satz zusammen.",
    "Nenne die Hauptstadt des Landes.",
    "Résume le texte juridique en termes simples.",
    "Mets le verbe au passé.",
    "Resume el texto legal en una frase sencilla.",
    "Escribe la palabra en plural.",
    "Riassumi il testo legale con parole semplici.",
    "Scrivi il contrario della parola.",
    "Vat de juridische tekst samen in gewone taal.",
    "Escreva o nome da capital do país.",
    "Napisz słowo w liczbie mnogiej.",
    "Skriv ordet i flertal.",
    "Преобразуй глагол в прошедшее время.",
    "用一句话概括法律文本。",
    "単語の複数形を書いてください。",
    "اكتب عاصمة البلد.",
];
/// Letters and digits without meaning.
const RANDOM_TEXTS: usize = 300;
/// Inputs of held-out tasks per task.
const INPUTS: usize = 8;
/// Words of an input that describes no task, at least.
const MIN_WORDS: usize = 4;

/// What judges a text.
struct Judge {
    encoder: Encoder,
    table: TaskTable,
    warn_below: f32,
}

impl Judge {
    fn of_default_bundle() -> Self {
        let bundle = Bundle::from_static(&t2lc::default_bundle::files().unwrap()).unwrap();
        Self {
            encoder: Encoder::load(&bundle, &Exact::default()).unwrap(),
            table: TaskTable::load(&bundle).unwrap(),
            warn_below: bundle.manifest.familiarity.warn_below,
        }
    }

    /// Share of the texts that are warned about.
    fn warned(&self, what: &str, texts: &[String]) -> f64 {
        let unfamiliar = |text: &&String| {
            let embedding = self.encoder.encode(&Description::new(text).unwrap()).unwrap();
            !self.table.nearest(&embedding.values, 1).is_familiar(self.warn_below)
        };
        let warned = texts.iter().filter(unfamiliar).count();
        let share = warned as f64 / texts.len() as f64;
        println!("{what}: {:.1} % of {} warned", 100.0 * share, texts.len());
        share
    }
}

/// Texts from a fixed generator, of 8 to 47 characters.
fn random_texts() -> Vec<String> {
    const ALPHABET: &[u8; 38] = b"abcdefghijklmnopqrstuvwxyz0123456789  ";
    let mut state = 7u64;
    let mut next = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut text = || -> String {
        let length = 7 + next(40);
        (0..length).map(|_| char::from(ALPHABET[next(ALPHABET.len())])).collect()
    };
    (0..RANDOM_TEXTS).map(|_| format!("q{}", text())).collect()
}

#[test]
fn nonsense_is_warned_about_and_real_descriptions_are_not() {
    let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/taskpack");
    let pack = TaskPack::load(&pack).unwrap();
    let held_out: Vec<&Task> = pack.tasks_of(TaskSplit::Heldout).collect();
    let descriptions: Vec<String> =
        held_out.iter().flat_map(|task| task.descriptions.clone()).collect();
    let inputs = |task: &&Task| -> Vec<String> {
        let long = |input: &&str| input.split_whitespace().count() >= MIN_WORDS;
        let inputs = task.examples_of(ExampleSplit::Test).map(|example| example.input.as_str());
        inputs.filter(long).take(INPUTS).map(str::to_owned).collect()
    };
    let inputs: Vec<String> = held_out.iter().flat_map(inputs).collect();
    let judge = Judge::of_default_bundle();

    assert!(judge.warned("descriptions of held-out tasks", &descriptions) <= 0.05);
    assert!(judge.warned("random text", &random_texts()) >= 0.95);
    let nonsense = judge.encoder.encode(&Description::new("qzx wfk plo vvm").unwrap()).unwrap();
    let near = judge.table.nearest(&nonsense.values, 1);
    assert!(near.no_task > near.tasks[0].cosine, "{near:?}");
    let unrelated = judge.warned("inputs of held-out tasks", &inputs);
    let languages = judge.warned("other languages", &OTHER_LANGUAGES.map(str::to_owned));
    println!("cosine {}: {unrelated:.3} {languages:.3}", judge.warn_below);
}
