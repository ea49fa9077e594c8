//! Where text goes: data to stdout, one JSON object or bytes; messages to stderr.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use t2lc_runtime::atomic::AtomicWriteError;
use t2lc_runtime::error::Error;

use super::failure::Outcome;

/// Prints one JSON object on stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print_text(&format!("{value:#}\n"))
}

/// Prints data on stdout.
pub(crate) fn print_text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes bytes to stdout, unless that is a terminal.
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    if io::stdout().is_terminal() {
        let what = "refusing to write binary data to a terminal";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Prints a message for people, unless they asked for quiet.
pub(crate) fn say(quiet: bool, message: &str) {
    if !quiet {
        // A message nobody can read must not stop the work.
        let _ = writeln!(io::stderr(), "{message}");
    }
}

/// Refuses an output that is in the way, before the work and not after it.
pub(crate) fn refuse_existing(path: &Path, force: bool) -> Outcome {
    if !force && path.symlink_metadata().is_ok() {
        let path = path.to_owned();
        return Err(Error::from(AtomicWriteError::AlreadyExists { path }).into());
    }
    Ok(())
}

/// A size as people read it.
pub(crate) fn human_bytes(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn sizes_are_short() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(3 << 20), "3.0 MiB");
    }
}
