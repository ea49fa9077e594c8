//! Text → words, as BERT splits it: cleaned, CJK characters apart, accents and case dropped if the
//! file says so, then split at white space and around punctuation
//! (<https://github.com/google-research/bert#tokenization>).

use serde::Deserialize;
use unicode_categories::UnicodeCategories;
use unicode_normalization::UnicodeNormalization;

/// The file's `normalizer` of type `BertNormalizer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct BertText {
    /// Drop control characters, and make all white space blanks.
    clean_text: bool,
    /// Split around CJK characters.
    handle_chinese_chars: bool,
    /// Drop accents; `null` is "if in lower case".
    strip_accents: Option<bool>,
    /// Make it lower case.
    lowercase: bool,
}

impl BertText {
    /// The words of a text, in order.
    pub(super) fn words(self, text: &str) -> Vec<String> {
        let mut cleaned = String::with_capacity(text.len());
        for c in text.chars().filter_map(|c| self.clean(c)) {
            if self.handle_chinese_chars && is_cjk(c) {
                cleaned.extend([' ', c, ' ']);
            } else {
                cleaned.push(c);
            }
        }
        if self.strip_accents.unwrap_or(self.lowercase) {
            cleaned = cleaned.nfd().filter(|c| !c.is_mark_nonspacing()).collect();
        }
        let mut words = Words::default();
        for c in cleaned.chars() {
            if self.lowercase {
                // Letter by letter: without the rule for a sigma at the end of a word.
                c.to_lowercase().for_each(|c| words.take(c));
            } else {
                words.take(c);
            }
        }
        words.finish()
    }

    fn clean(self, c: char) -> Option<char> {
        match c {
            _ if !self.clean_text => Some(c),
            '\t' | '\n' | '\r' => Some(' '),
            '\u{fffd}' => None,
            _ if c.is_other() => None,
            _ if c.is_whitespace() => Some(' '),
            _ => Some(c),
        }
    }
}

/// Words, as their characters come in.
#[derive(Debug, Default)]
struct Words {
    done: Vec<String>,
    open: String,
}

impl Words {
    fn take(&mut self, c: char) {
        if c.is_whitespace() {
            self.close();
        } else if c.is_ascii_punctuation() || c.is_punctuation() {
            self.close();
            self.done.push(c.to_string());
        } else {
            self.open.push(c);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open));
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.close();
        self.done
    }
}

/// The blocks that BERT takes for Chinese.
fn is_cjk(c: char) -> bool {
    matches!(u32::from(c),
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x2_a6df
        | 0x2_a700..=0x2_b73f | 0x2_b740..=0x2_b81f | 0x2_b920..=0x2_ceaf | 0x2_f800..=0x2_fa1f)
}
