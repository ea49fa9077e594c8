//! Stage 1, describe: raw text → the canonical task description.
//!
//! Two texts that a person would call the same description become the same bytes: Unicode
//! normalization form C, line ends `\n`, no white space at either end. The canonical bytes are what
//! the encoder reads and what the recipe digest covers.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// Longest canonical description in bytes; the encoder reads far less.
pub const MAX_BYTES: usize = 4096;

/// A canonical task description: 1 to [`MAX_BYTES`] bytes of UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Description(String);

/// Why a text is not a description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// Nothing is left after trimming.
    #[error("the description is empty")]
    Empty,
    /// More than [`MAX_BYTES`].
    #[error("the description has {bytes} bytes, at most {MAX_BYTES} are allowed")]
    TooLong {
        /// Bytes of the canonical text, or of the raw one if that is refused unread.
        bytes: usize,
    },
    /// A control character other than tab and line end.
    #[error("the description contains the control character U+{code:04X}")]
    ControlCharacter {
        /// The character's code point.
        code: u32,
    },
}

impl Description {
    /// Makes a text canonical.
    ///
    /// # Errors
    /// An empty or too long text, or one with control characters.
    ///
    /// ```
    /// use t2lc_runtime::describe::Description;
    /// let description = Description::new("  summarize legal text\r\n")?;
    /// assert_eq!(description.as_str(), "summarize legal text");
    /// # Ok::<(), t2lc_runtime::describe::DescriptionError>(())
    /// ```
    pub fn new(text: &str) -> Result<Self, DescriptionError> {
        // The form is hardly shorter than a text; one that is beyond any hope is not even read.
        if text.len() > 4 * MAX_BYTES {
            return Err(DescriptionError::TooLong { bytes: text.len() });
        }
        let unified = text.replace("\r\n", "\n").replace('\r', "\n");
        let canonical: String = unified.trim().nfc().collect();
        if canonical.is_empty() {
            return Err(DescriptionError::Empty);
        }
        if canonical.len() > MAX_BYTES {
            return Err(DescriptionError::TooLong { bytes: canonical.len() });
        }
        let forbidden = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
        if let Some(c) = canonical.chars().find(forbidden) {
            return Err(DescriptionError::ControlCharacter { code: u32::from(c) });
        }
        Ok(Self(canonical))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Description, DescriptionError, MAX_BYTES};

    #[test]
    fn equal_descriptions_have_equal_bytes() {
        let composed = Description::new("r\u{e9}sum\u{e9}\nit").unwrap();
        assert_eq!(Description::new(" re\u{301}sume\u{301}\r\nit\n").unwrap(), composed);
        assert_eq!(Description::new("r\u{e9}sum\u{e9}\rit").unwrap(), composed);
    }

    #[test]
    fn unusable_texts_are_refused() {
        assert_eq!(Description::new(" \n\t").unwrap_err(), DescriptionError::Empty);
        let long = "x".repeat(MAX_BYTES + 1);
        assert_eq!(
            Description::new(&long).unwrap_err(),
            DescriptionError::TooLong { bytes: MAX_BYTES + 1 }
        );
        assert!(Description::new(&"x".repeat(MAX_BYTES)).is_ok());
        let nul = Description::new("a\0b").unwrap_err();
        assert_eq!(nul, DescriptionError::ControlCharacter { code: 0 });
    }
}
