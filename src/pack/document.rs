//! TOML with line numbers, read strictly: unknown keys and wrong types are problems.
//!
//! In: a file that is not trusted. Out: its tables as [`Fields`], which give values of the expected
//! type and add a problem with file and line for everything else. Size is bounded before reading;
//! the parser bounds the depth.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, Table, TableLike, Value};

use super::problems::Problems;

/// The bytes of a regular file, symbolic links followed.
///
/// # Errors
/// A file that cannot be read, is larger than `limit_bytes`, or is a directory, pipe or device.
pub(super) fn read_limited(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return wrong("it is not a regular file".into());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return wrong(format!("it has more than {limit_bytes} bytes"));
    }
    Ok(bytes)
}

/// A parsed file.
pub(super) struct Source {
    path: PathBuf,
    document: Document<String>,
    /// Where each line after the first starts, in bytes.
    line_starts: Vec<usize>,
}

impl Source {
    /// Parses a file, or adds why that cannot be done.
    pub(super) fn parse(path: &Path, bytes: Vec<u8>, problems: &mut Problems) -> Option<Self> {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let before = &error.as_bytes()[..valid];
                let line = before.split(|byte| *byte == b'\n').count();
                problems.add(path, Some(line), "it is not UTF-8");
                return None;
            }
        };
        let line_starts: Vec<usize> =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1).collect();
        match Document::parse(text) {
            Ok(document) => Some(Self { path: path.to_owned(), document, line_starts }),
            Err(error) => {
                let line = error.span().map(|span| line_of(&line_starts, span.start));
                problems.add(path, line, error.message());
                None
            }
        }
    }

    /// The top level.
    pub(super) fn top(&self) -> Fields<'_> {
        Fields { source: self, table: self.document.as_table(), what: "the file", line: None }
    }

    fn line(&self, span: Option<Range<usize>>) -> Option<usize> {
        span.map(|span| line_of(&self.line_starts, span.start))
    }
}

/// Line of a byte, from 1.
fn line_of(line_starts: &[usize], byte: usize) -> usize {
    1 + line_starts.partition_point(|start| *start <= byte)
}

/// One table of a file.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    source: &'a Source,
    table: &'a dyn TableLike,
    /// How messages call it.
    what: &'static str,
    line: Option<usize>,
}

impl<'a> Fields<'a> {
    /// Line of the table's header; the top level has none.
    pub(super) fn line(&self) -> Option<usize> {
        self.line
    }

    /// Line of a key, else of the table.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let of_key = self.table.key(key).and_then(|key| self.source.line(key.span()));
        of_key.or(self.line)
    }

    /// Adds a problem at a key.
    pub(super) fn complain(&self, key: &str, what: &str, problems: &mut Problems) {
        problems.add(&self.source.path, self.line_of(key), what);
    }

    /// Adds a problem for every key that is not known.
    pub(super) fn expect_only(&self, known: &[&str], problems: &mut Problems) {
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(key)) {
            let known = known.join(", ");
            let what = format!("unknown key `{key}` in {}, expected one of {known}", self.what);
            self.complain(key, &what, problems);
        }
    }

    /// Adds a problem if the key is missing.
    pub(super) fn require(&self, key: &str, problems: &mut Problems) {
        if self.table.get(key).is_none() {
            problems.add(&self.source.path, self.line, &format!("{} has no `{key}`", self.what));
        }
    }

    /// A string, if the key is there.
    pub(super) fn string(&self, key: &str, problems: &mut Problems) -> Option<&'a str> {
        self.typed(key, "a string", Item::as_str, problems)
    }

    /// A boolean, if the key is there.
    pub(super) fn boolean(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        self.typed(key, "true or false", Item::as_bool, problems)
    }

    /// A number that is not negative, if the key is there.
    pub(super) fn count(&self, key: &str, problems: &mut Problems) -> Option<u64> {
        let count = |item: &Item| item.as_integer().and_then(|value| u64::try_from(value).ok());
        self.typed(key, "a whole number from 0", count, problems)
    }

    /// A finite 32-bit float, if the key is there; whole numbers are taken as well.
    pub(super) fn float(&self, key: &str, problems: &mut Problems) -> Option<f32> {
        self.typed(key, "a finite number", finite, problems)
    }

    /// Something that is written as a string, if the key is there.
    pub(super) fn parsed<T: std::str::FromStr>(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.string(key, problems)?;
        let parsed = text.parse::<T>();
        parsed.map_err(|e| self.complain(key, &format!("`{key}`: {e}"), problems)).ok()
    }

    /// The strings of an array; empty if the key is not there.
    pub(super) fn strings(&self, key: &str, problems: &mut Problems) -> Vec<&'a str> {
        let strings = |item: &'a Item| -> Option<Vec<&'a str>> {
            item.as_array()?.iter().map(Value::as_str).collect()
        };
        self.typed(key, "an array of strings", strings, problems).unwrap_or_default()
    }

    /// The table of a key, if it is there.
    pub(super) fn table(
        &self,
        key: &str,
        what: &'static str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let table = self.typed(key, "a table", Item::as_table_like, problems)?;
        Some(Self { source: self.source, table, what, line: self.line_of(key) })
    }

    /// The tables of an array of tables; none if the key is not there.
    pub(super) fn tables(
        &self,
        key: &str,
        what: &'static str,
        problems: &mut Problems,
    ) -> Vec<Self> {
        let expected = format!("one or more tables `[[{key}]]`");
        let tables = self.typed(key, &expected, Item::as_array_of_tables, problems);
        let fields = |table: &'a Table| Self {
            source: self.source,
            table,
            what,
            line: self.source.line(table.span()),
        };
        tables.map(|tables| tables.iter().map(fields).collect()).unwrap_or_default()
    }

    /// The inline tables of an array; none if the key is not there.
    pub(super) fn inline_tables(
        &self,
        key: &str,
        what: &'static str,
        problems: &mut Problems,
    ) -> Vec<Self> {
        let tables = |item: &'a Item| -> Option<Vec<&'a dyn TableLike>> {
            let values = item.as_array()?.iter();
            values.map(|v| v.as_inline_table().map(|t| t as &dyn TableLike)).collect()
        };
        let tables = self.typed(key, "an array of inline tables", tables, problems);
        let fields = |table| Self { source: self.source, table, what, line: self.line_of(key) };
        tables.unwrap_or_default().into_iter().map(fields).collect()
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Item) -> Option<T>,
        problems: &mut Problems,
    ) -> Option<T> {
        let item = self.table.get(key)?;
        let value = convert(item);
        if value.is_none() {
            let got = item.type_name();
            self.complain(key, &format!("`{key}` is not {expected}, but {got}"), problems);
        }
        value
    }
}

fn finite(item: &Item) -> Option<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "the nearest 32-bit float is meant")]
    let from_float = item.as_float().map(|value| value as f32);
    let from_integer = || item.as_integer().and_then(|value| i16::try_from(value).ok());
    from_float.or_else(|| from_integer().map(f32::from)).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Problems, Source, read_limited};

    fn parse(text: &str) -> (Option<Source>, Problems) {
        let mut problems = Problems::default();
        let source = Source::parse(Path::new("f"), text.as_bytes().to_vec(), &mut problems);
        (source, problems)
    }

    #[test]
    fn wrong_types_and_unknown_keys_have_their_lines() {
        let (source, mut problems) =
            parse("a = 1\r\nb = \"x\"\r\n\r\n[[t]]\r\nc = 3\r\n[[t]]\r\n d = nan\r\n");
        let source = source.unwrap();
        let top = source.top();
        top.expect_only(&["a", "t"], &mut problems);
        assert_eq!(top.string("a", &mut problems), None);
        assert_eq!(top.count("a", &mut problems), Some(1));
        let tables = top.tables("t", "a table", &mut problems);
        assert_eq!((tables[0].line(), tables[1].line()), (Some(4), Some(6)));
        assert_eq!(tables[0].float("c", &mut problems), Some(3.0));
        assert_eq!(tables[1].float("d", &mut problems), None);
        tables[1].require("c", &mut problems);
        assert_eq!(
            problems.into_texts(),
            [
                "f:2: unknown key `b` in the file, expected one of a, t",
                "f:1: `a` is not a string, but integer",
                "f:7: `d` is not a finite number, but float",
                "f:6: a table has no `c`",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_says_where() {
        let (source, problems) = parse("a = 1\nb = = 2\n");
        assert!(source.is_none());
        assert!(problems.into_texts()[0].starts_with("f:2: "));
        let mut problems = Problems::default();
        assert!(Source::parse(Path::new("f"), b"a = 1\n\xff".to_vec(), &mut problems).is_none());
        assert_eq!(problems.into_texts(), ["f:2: it is not UTF-8"]);
        let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deep).0.is_none());
    }

    #[test]
    fn large_files_and_directories_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert!(read_limited(&path, 4).unwrap_err().to_string().contains("more than 4 bytes"));
        assert!(read_limited(dir.path(), 5).unwrap_err().to_string().contains("regular file"));
    }
}
