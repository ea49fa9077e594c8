//! How llama-server is started with all adapters of a pack, and asked for one of them.
//!
//! In: a lock and the directory of its files. Out: a command line that loads every adapter with
//! scale 0, the body that sets these scales again, and the body of a request for one adapter. The
//! id of an adapter is its position in the command line's list, which is sorted by name.
//!
//! The form follows from what llama.cpp (seen in builds of October 2026) does:
//!
//! - `--lora-init-without-apply` leaves every scale at 1, so each is 0 in `--lora-scaled`;
//! - a list is split at `,` and an entry at `:`, so paths have neither; a second `--lora-scaled` is
//!   deprecated, so there is one list, which the system must take as one argument;
//! - an empty `lora` field counts as none, so a request lists every id;
//! - a request without the field keeps what another adapter left in the prompt cache, so requests
//!   have the field and turn the cache off.

use std::path::{Path, PathBuf};

use serde::Serialize;
use t2lc_runtime::compile::Format;

use super::lock::Lock;
use super::place::join;
use super::quoted;

/// The program.
const PROGRAM: &str = "llama-server";
/// What separates entries of a list, what a path and its scale, and what starts a quotation.
const SEPARATORS: [char; 3] = [',', ':', '"'];
/// Longest argument that Linux takes.
const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;

/// Why a pack cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is nothing to load.
    #[error("the pack has no adapters")]
    Empty,
    /// Adapters in a form that the server does not load.
    #[error(
        "llama-server loads GGUF files only, and {} adapters are PEFT directories: {}",
        .names.len(), quoted(.names)
    )]
    Peft {
        /// Their names.
        names: Vec<String>,
    },
    /// A path that the server would take apart.
    #[error("`{path}` contains `{separator}`, which llama-server's list of adapters is split at")]
    Separator {
        /// The path.
        path: String,
        /// The first character of this kind.
        separator: char,
    },
    /// A path that is no text.
    #[error("`{}` is not UTF-8", .path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// More adapters than one argument can name.
    #[error("the list of adapters has {bytes} bytes, an argument at most {MAX_ARGUMENT_BYTES}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// An adapter that the pack does not have.
    #[error("the pack has no adapter `{name}`")]
    Unknown {
        /// Its name.
        name: String,
    },
}

/// A pack as llama-server loads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    adapters: Vec<Served>,
}

/// One adapter of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Served {
    /// What requests call it.
    pub id: usize,
    /// Its name in the pack.
    pub name: String,
    /// Its file, as the server is given it.
    pub path: String,
}

/// How strong an adapter is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scale {
    /// The adapter.
    pub id: usize,
    /// 0 is off, 1 as the pack wants it.
    pub scale: f32,
}

/// What a request has besides its prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    /// Every adapter.
    pub lora: Vec<Scale>,
    /// Whether what the last request left behind is used.
    pub cache_prompt: bool,
}

impl Serving {
    /// All adapters of a lock, below the directory of its files. The files are not looked at.
    ///
    /// # Errors
    /// Adapters or paths that the server cannot be given.
    pub fn new(lock: &Lock, directory: &Path) -> Result<Self, ServeError> {
        let peft = lock.adapters.iter().filter(|adapter| adapter.format != Format::Gguf);
        let names: Vec<String> = peft.map(|adapter| adapter.name.clone()).collect();
        if !names.is_empty() {
            return Err(ServeError::Peft { names });
        }
        if lock.adapters.is_empty() {
            return Err(ServeError::Empty);
        }
        let mut adapters = Vec::with_capacity(lock.adapters.len());
        for (id, adapter) in lock.adapters.iter().enumerate() {
            let path = listable(&join(directory, &adapter.output))?;
            adapters.push(Served { id, name: adapter.name.clone(), path });
        }
        let serving = Self { adapters };
        let bytes = serving.list().len();
        if bytes > MAX_ARGUMENT_BYTES {
            return Err(ServeError::TooLong { bytes });
        }
        Ok(serving)
    }

    /// The adapters, by rising id; there is at least one.
    pub fn adapters(&self) -> &[Served] {
        &self.adapters
    }

    /// The command line that loads a base and every adapter with scale 0.
    pub fn command(&self, base: &str) -> Vec<String> {
        [PROGRAM, "-m", base, "--lora-scaled", &self.list()].map(String::from).into()
    }

    /// The body of `POST /lora-adapters` that turns every adapter off for requests that name none:
    /// what the command line does as well.
    pub fn initial(&self) -> Vec<Scale> {
        self.scales(None)
    }

    /// What a request for an adapter has, or without a name one for the base as it is.
    ///
    /// # Errors
    /// If the pack has no such adapter.
    pub fn request(&self, name: Option<&str>) -> Result<Request, ServeError> {
        let chosen = name.map(|name| self.id(name)).transpose()?;
        Ok(Request { lora: self.scales(chosen), cache_prompt: false })
    }

    fn id(&self, name: &str) -> Result<usize, ServeError> {
        let found = self.adapters.iter().find(|served| served.name == name);
        found.map(|served| served.id).ok_or_else(|| ServeError::Unknown { name: name.to_owned() })
    }

    /// Every id, the chosen one with scale 1.
    fn scales(&self, chosen: Option<usize>) -> Vec<Scale> {
        let scale = |id| Scale { id, scale: if chosen == Some(id) { 1.0 } else { 0.0 } };
        (0..self.adapters.len()).map(scale).collect()
    }

    /// `PATH:0,PATH:0,…`
    fn list(&self) -> String {
        let entries: Vec<String> =
            self.adapters.iter().map(|served| format!("{}:0", served.path)).collect();
        entries.join(",")
    }
}

/// A path that stays whole in the server's list.
fn listable(path: &Path) -> Result<String, ServeError> {
    let Some(text) = path.to_str() else {
        return Err(ServeError::NotText { path: path.to_owned() });
    };
    match text.chars().find(|c| SEPARATORS.contains(c)) {
        Some(separator) => Err(ServeError::Separator { path: text.to_owned(), separator }),
        None => Ok(text.to_owned()),
    }
}

/// A command as a POSIX shell takes it.
pub fn shell_line(command: &[String]) -> String {
    command.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use t2lc_runtime::compile::Format;

    use super::{MAX_ARGUMENT_BYTES, ServeError, Serving, shell_line};
    use crate::pack::lock::tests::sample;

    fn serving() -> Serving {
        Serving::new(&sample(&[("a", "x"), ("b", "y")]), Path::new("dir")).unwrap()
    }

    fn json(value: &impl serde::Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn ids_are_positions_in_the_list() {
        let serving = serving();
        let command =
            ["llama-server", "-m", "m.gguf", "--lora-scaled", "dir/a.gguf:0,dir/b.gguf:0"];
        assert_eq!(serving.command("m.gguf"), command);
        let ids: Vec<(usize, &str)> =
            serving.adapters().iter().map(|served| (served.id, served.name.as_str())).collect();
        assert_eq!(ids, [(0, "a"), (1, "b")]);
    }

    #[test]
    fn requests_list_every_id() {
        let serving = serving();
        let off = r#"[{"id":0,"scale":0.0},{"id":1,"scale":0.0}]"#;
        assert_eq!(json(&serving.initial()), off);
        let expected = format!(r#"{{"lora":{off},"cache_prompt":false}}"#);
        assert_eq!(json(&serving.request(None).unwrap()), expected);
        let expected =
            r#"{"lora":[{"id":0,"scale":0.0},{"id":1,"scale":1.0}],"cache_prompt":false}"#;
        assert_eq!(json(&serving.request(Some("b")).unwrap()), expected);
        assert!(matches!(serving.request(Some("c")), Err(ServeError::Unknown { .. })));
    }

    #[test]
    fn paths_that_the_server_would_take_apart() {
        for (directory, character) in [("a,b", ','), ("C:", ':'), ("a\"b", '"')] {
            match Serving::new(&sample(&[("a", "x")]), Path::new(directory)) {
                Err(ServeError::Separator { separator, .. }) => assert_eq!(separator, character),
                other => panic!("{directory}: {other:?}"),
            }
        }
        let long = "x".repeat(MAX_ARGUMENT_BYTES / 2);
        let found = Serving::new(&sample(&[("a", "x")]), Path::new(&long));
        assert!(found.is_ok(), "{found:?}");
        let found = Serving::new(&sample(&[("a", "x"), ("b", "y")]), Path::new(&long));
        assert!(matches!(found, Err(ServeError::TooLong { .. })), "{found:?}");
    }

    #[test]
    fn packs_that_the_server_does_not_load() {
        let mut lock = sample(&[("a", "x"), ("b", "y")]);
        lock.adapters[1].format = Format::Peft;
        match Serving::new(&lock, Path::new("dir")) {
            Err(ServeError::Peft { names }) => assert_eq!(names, ["b"]),
            other => panic!("{other:?}"),
        }
        let empty = Serving::new(&sample(&[]), Path::new("dir"));
        assert!(matches!(empty, Err(ServeError::Empty)), "{empty:?}");
    }

    #[test]
    fn a_shell_gets_every_word_whole() {
        let line = |words: &[&str]| {
            shell_line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(line(&["a-b", "x/y_1.gguf:0,z:0"]), "a-b x/y_1.gguf:0,z:0");
        assert_eq!(line(&["", "it's", "$HOME", "~"]), r"'' 'it'\''s' '$HOME' '~'");
    }
}
