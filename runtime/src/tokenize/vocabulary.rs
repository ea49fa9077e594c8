//! The words of a vocabulary and their ids: one string of all words, and their places in order.
//!
//! 30,000 words take half a megabyte this way, a tenth of a hash table of strings.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest text of all words together that is believed.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// Words and their ids, read from a JSON object; empty if it is a list, as other models have.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    text: String,
    /// In the order of the words.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    bytes: u32,
    id: u32,
}

impl Vocabulary {
    /// Id of a word.
    pub(super) fn id(&self, word: &str) -> Option<u32> {
        let place = self.entries.binary_search_by(|entry| self.word(*entry).cmp(word)).ok()?;
        self.entries.get(place).map(|entry| entry.id)
    }

    fn word(&self, entry: Entry) -> &str {
        self.text.get(entry.range()).unwrap_or_default()
    }

    fn push(&mut self, word: &str, id: u32) -> Result<(), String> {
        let too_long = || format!("the vocabulary has more than {MAX_TEXT_BYTES} bytes of words");
        if self.text.len() + word.len() > MAX_TEXT_BYTES {
            return Err(too_long());
        }
        let start = u32::try_from(self.text.len()).map_err(|_| too_long())?;
        let bytes = u32::try_from(word.len()).map_err(|_| too_long())?;
        self.text.push_str(word);
        self.entries.push(Entry { start, bytes, id });
        Ok(())
    }

    fn sort(&mut self) -> Result<(), String> {
        let text = std::mem::take(&mut self.text);
        let word = |entry: &Entry| text.get(entry.range()).unwrap_or_default();
        self.entries.sort_unstable_by(|a, b| word(a).cmp(word(b)));
        let twice = self.entries.windows(2).find(|pair| word(&pair[0]) == word(&pair[1]));
        let problem = twice.map(|pair| format!("the vocabulary has {:?} twice", word(&pair[0])));
        self.text = text;
        problem.map_or(Ok(()), Err)
    }
}

impl Entry {
    fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.bytes as usize
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("words and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary::default();
                while let Some((word, id)) = map.next_entry::<Cow<'de, str>, u32>()? {
                    vocabulary.push(&word, id).map_err(A::Error::custom)?;
                }
                vocabulary.sort().map_err(A::Error::custom)?;
                Ok(vocabulary)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocabulary::default())
            }
        }
        deserializer.deserialize_any(Entries)
    }
}
