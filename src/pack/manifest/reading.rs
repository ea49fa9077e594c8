//! Reads a pack's files one after another and collects what is wrong with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use t2lc_runtime::compile::Format;
use t2lc_runtime::describe::{Description, MAX_BYTES};
use t2lc_runtime::quantize::Quantization;

use super::{AdapterEntry, DEFAULT_OUT, MAX_ADAPTERS, SCHEMA};
use crate::pack::document::{Fields, Source, read_limited};
use crate::pack::place::{confined, join, nested, output, refuse_name, symlink};
use crate::pack::problems::Problems;

/// Largest file with adapters.
pub(super) const MAX_FILE_BYTES: u64 = 8 << 20;
/// Largest description file; what is longer is no description in any encoding of line ends.
const MAX_DESCRIPTION_BYTES: u64 = 4 * MAX_BYTES as u64;
/// Most files that are read.
const MAX_FILES: usize = 256;
/// How deep includes go.
const MAX_DEPTH: usize = 8;

/// What holds for every adapter that does not say otherwise.
pub(super) struct Settings {
    pub(super) name: Option<String>,
    pub(super) model: Option<PathBuf>,
    pub(super) out: String,
    pub(super) format: Format,
    quantization: Quantization,
    scale: f32,
}

impl Default for Settings {
    fn default() -> Self {
        let format = Format::default();
        Self {
            name: None,
            model: None,
            out: DEFAULT_OUT.into(),
            format,
            quantization: format.default_quantization(),
            scale: 1.0,
        }
    }
}

/// A file that another one includes.
pub(super) struct Include {
    /// Below the pack's directory.
    file: String,
    /// The files that led to it, the pack's own first.
    chain: Vec<String>,
    /// Who asks, for messages.
    asked_at: (PathBuf, Option<usize>),
}

/// Where an adapter was read.
pub(super) type Place = (PathBuf, Option<usize>);

/// A pack being read.
pub(super) struct Reading {
    pub(super) directory: PathBuf,
    pub(super) problems: Problems,
    pub(super) open: VecDeque<Include>,
    /// Files read or waiting, below the directory.
    files: Vec<String>,
    pub(super) adapters: Vec<(AdapterEntry, Place)>,
    /// Adapters seen, those with problems as well.
    seen: usize,
    /// Names in lower case.
    names: BTreeMap<String, Place>,
}

impl Reading {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            problems: Problems::default(),
            open: VecDeque::new(),
            files: Vec::new(),
            adapters: Vec::new(),
            seen: 0,
            names: BTreeMap::new(),
        }
    }

    /// Reads the pack's own file.
    pub(super) fn root(&mut self, path: &Path, bytes: Vec<u8>) -> Settings {
        let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.files.push(own.clone());
        let Some(source) = Source::parse(path, bytes, &mut self.problems) else {
            return Settings::default();
        };
        let top = source.top();
        if !self.right_schema(&top) {
            return Settings::default();
        }
        top.expect_only(&["schema", "include", "pack", "adapter"], &mut self.problems);
        let settings = self.settings(&top);
        self.adapters(path, "", &top, &settings);
        self.includes(path, &[own], &top);
        if self.seen == 0 && self.open.is_empty() {
            self.problems.add(path, None, "the pack has no `[[adapter]]`");
        }
        settings
    }

    /// Reads an included file.
    pub(super) fn included(&mut self, include: &Include, settings: &Settings) {
        let path = join(&self.directory, &include.file);
        let (asked_in, line) = &include.asked_at;
        let bytes = match self.read_inside(&include.file, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(reason) => {
                let what = format!("cannot include `{}`: {reason}", include.file);
                return self.problems.add(asked_in, *line, &what);
            }
        };
        let Some(source) = Source::parse(&path, bytes, &mut self.problems) else { return };
        let top = source.top();
        if !self.right_schema(&top) {
            return;
        }
        // Settings belong to the pack's own file, where everybody looks for them.
        top.expect_only(&["schema", "include", "adapter"], &mut self.problems);
        let folder = include.file.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.adapters(&path, folder, &top, settings);
        let mut chain = include.chain.clone();
        chain.push(include.file.clone());
        self.includes(&path, &chain, &top);
    }

    fn right_schema(&mut self, top: &Fields<'_>) -> bool {
        top.require("schema", &mut self.problems);
        match top.count("schema", &mut self.problems) {
            Some(SCHEMA) => true,
            Some(got) => {
                let what = format!("schema {got}, this version reads schema {SCHEMA}");
                top.complain("schema", &what, &mut self.problems);
                false
            }
            None => false,
        }
    }

    fn settings(&mut self, top: &Fields<'_>) -> Settings {
        let problems = &mut self.problems;
        let mut settings = Settings::default();
        let Some(pack) = top.table("pack", "[pack]", problems) else { return settings };
        let known = ["name", "model", "quantization", "format", "scale", "out"];
        pack.expect_only(&known, problems);
        if let Some(name) = pack.string("name", problems) {
            if let Err(reason) = refuse_name(name) {
                pack.complain("name", &reason, problems);
            }
            settings.name = Some(name.to_owned());
        }
        if let Some(format) = pack.parsed::<Format>("format", problems) {
            settings.format = format;
            settings.quantization = format.default_quantization();
        }
        if let Some(quantization) = quantization(&pack, settings.format, problems) {
            settings.quantization = quantization;
        }
        settings.scale = pack.float("scale", problems).unwrap_or(settings.scale);
        if let Some(out) = directory_of(&self.directory, &pack, "out", problems) {
            settings.out = out;
        }
        let model = directory_of(&self.directory, &pack, "model", problems);
        settings.model = model.map(|model| join(&self.directory, &model));
        settings
    }

    fn includes(&mut self, path: &Path, chain: &[String], top: &Fields<'_>) {
        let folder = chain.last().and_then(|file| file.rsplit_once('/')).map(|(folder, _)| folder);
        let asked_at = (path.to_owned(), top.line_of("include"));
        for text in top.strings("include", &mut self.problems) {
            let file = match below(folder.unwrap_or(""), text) {
                Ok(file) => file,
                Err(reason) => {
                    top.complain("include", &reason, &mut self.problems);
                    continue;
                }
            };
            let refused = if chain.contains(&file) {
                Some(format!("`{file}` includes itself: {} → {file}", chain.join(" → ")))
            } else if self.files.contains(&file) {
                Some(format!("`{file}` is included twice"))
            } else if chain.len() > MAX_DEPTH {
                Some(format!("`{file}` is included more than {MAX_DEPTH} levels deep"))
            } else if self.files.len() >= MAX_FILES {
                Some(format!("`{file}` is one file too many, at most {MAX_FILES} are read"))
            } else {
                None
            };
            if let Some(reason) = refused {
                top.complain("include", &reason, &mut self.problems);
                continue;
            }
            self.files.push(file.clone());
            let asked_at = asked_at.clone();
            self.open.push_back(Include { file, chain: chain.to_vec(), asked_at });
        }
    }

    fn adapters(&mut self, path: &Path, folder: &str, top: &Fields<'_>, settings: &Settings) {
        for fields in top.tables("adapter", "the adapter", &mut self.problems) {
            self.seen += 1;
            if self.seen > MAX_ADAPTERS {
                let what = format!("one adapter too many, at most {MAX_ADAPTERS} are read");
                return self.problems.add(path, fields.line(), &what);
            }
            if let Some(entry) = self.adapter(path, folder, &fields, settings) {
                self.adapters.push((entry, (path.to_owned(), fields.line())));
            }
        }
    }

    /// One adapter; `None` if something about it is wrong.
    fn adapter(
        &mut self,
        path: &Path,
        folder: &str,
        fields: &Fields<'_>,
        settings: &Settings,
    ) -> Option<AdapterEntry> {
        let known = ["name", "description", "description_file", "quantization", "scale", "output"];
        fields.expect_only(&known, &mut self.problems);
        fields.require("name", &mut self.problems);
        let description = self.description(folder, fields);
        let problems = &mut self.problems;
        let quantization = quantization(fields, settings.format, problems);
        let scale = fields.float("scale", problems);
        let given = fields.string("output", problems);
        let name = fields.string("name", problems)?;
        if let Err(reason) = refuse_name(name) {
            fields.complain("name", &reason, problems);
            return None;
        }
        let place = (path.to_owned(), fields.line_of("name"));
        if let Some((file, line)) = self.names.insert(name.to_ascii_lowercase(), place) {
            let line = line.map_or_else(String::new, |line| format!(":{line}"));
            let what = format!("the name `{name}` is taken at {}{line}", file.display());
            fields.complain("name", &what, problems);
        }
        let is_file = settings.format == Format::Gguf;
        let usual = if is_file { format!("{name}.gguf") } else { name.to_owned() };
        let output = output(given.unwrap_or(&usual), is_file)
            .map_err(|reason| fields.complain("output", &reason, problems));
        Some(AdapterEntry {
            name: name.to_owned(),
            description: description?,
            output: output.ok()?,
            quantization: quantization.unwrap_or(settings.quantization),
            scale: scale.unwrap_or(settings.scale),
        })
    }

    fn description(&mut self, folder: &str, fields: &Fields<'_>) -> Option<Description> {
        let inline = fields.string("description", &mut self.problems);
        let file = fields.string("description_file", &mut self.problems);
        let (key, text) = match (inline, file) {
            (Some(text), None) => ("description", text.to_owned()),
            (None, Some(file)) => match self.description_file(folder, file) {
                Ok(text) => ("description_file", text),
                Err(reason) => {
                    fields.complain("description_file", &reason, &mut self.problems);
                    return None;
                }
            },
            (Some(_), Some(_)) => {
                let what = "the adapter has both `description` and `description_file`";
                fields.complain("description_file", what, &mut self.problems);
                return None;
            }
            (None, None) => {
                let what = "the adapter has neither `description` nor `description_file`";
                fields.complain("name", what, &mut self.problems);
                return None;
            }
        };
        let description = Description::new(&text);
        description.map_err(|e| fields.complain(key, &e.to_string(), &mut self.problems)).ok()
    }

    fn description_file(&self, folder: &str, file: &str) -> Result<String, String> {
        let file = below(folder, file)?;
        let bytes = self
            .read_inside(&file, MAX_DESCRIPTION_BYTES)
            .map_err(|reason| format!("cannot read `{file}`: {reason}"))?;
        String::from_utf8(bytes).map_err(|_| format!("`{file}` is not UTF-8"))
    }

    /// A file below the pack's directory, through no symbolic link.
    fn read_inside(&self, file: &str, limit_bytes: u64) -> Result<Vec<u8>, String> {
        if let Some(link) = symlink(&self.directory, file) {
            return Err(format!("`{}` is a symbolic link", link.display()));
        }
        read_limited(&join(&self.directory, file), limit_bytes).map_err(|e| e.to_string())
    }

    /// No output twice in any letter case, none inside another, none through a symbolic link.
    pub(super) fn check_outputs(&mut self, path: &Path, out_dir: &Path) {
        let mut outputs: BTreeMap<String, &Place> = BTreeMap::new();
        for (entry, place) in &self.adapters {
            let (file, line) = place;
            if let Some((taken, line_taken)) =
                outputs.insert(entry.output.to_ascii_lowercase(), place)
            {
                let line_taken = line_taken.map_or_else(String::new, |line| format!(":{line}"));
                let taken = taken.display();
                let what = format!("output `{}` is taken at {taken}{line_taken}", entry.output);
                self.problems.add(file, *line, &what);
            }
            if let Some(link) = symlink(out_dir, &entry.output) {
                let (output, path) = (&entry.output, link.display());
                let what = format!("output `{output}` leads through the symbolic link `{path}`");
                self.problems.add(file, *line, &what);
            }
        }
        let names: BTreeSet<String> = outputs.keys().cloned().collect();
        for (output, parent) in nested(&names) {
            let (file, line) = outputs[output];
            let what = format!("output `{output}` lies inside the output `{parent}`");
            self.problems.add(file, *line, &what);
        }
        if self.seen == 0 && self.problems.is_empty() {
            self.problems.add(path, None, "the pack has no `[[adapter]]`");
        }
    }
}

/// A path of a file, taken from the directory of the file that names it.
fn below(folder: &str, text: &str) -> Result<String, String> {
    let path = confined(text)?;
    if path == "." {
        return Err(format!("`{text}` is a directory"));
    }
    Ok(if folder.is_empty() { path } else { format!("{folder}/{path}") })
}

/// A directory below the pack's, through no symbolic link.
fn directory_of(
    directory: &Path,
    fields: &Fields<'_>,
    key: &str,
    problems: &mut Problems,
) -> Option<String> {
    let text = fields.string(key, problems)?;
    let found = confined(text).and_then(|path| match symlink(directory, &path) {
        Some(link) => Err(format!("`{text}` leads through the symbolic link `{}`", link.display())),
        None => Ok(path),
    });
    found.map_err(|reason| fields.complain(key, &format!("`{key}`: {reason}"), problems)).ok()
}

/// The quantization of a table, which the format must have.
fn quantization(
    fields: &Fields<'_>,
    format: Format,
    problems: &mut Problems,
) -> Option<Quantization> {
    let got = fields.parsed::<Quantization>("quantization", problems)?;
    if format == Format::Peft && got.block_len() > 1 {
        let what = format!("a PEFT adapter cannot be `{got}`, only f32, f16 or bf16");
        fields.complain("quantization", &what, problems);
        return None;
    }
    Some(got)
}
