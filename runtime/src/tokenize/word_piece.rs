//! Words → token ids: the longest pieces that the vocabulary has, from the left
//! (<https://arxiv.org/abs/1609.08144>, section 4.1, in the form that BERT uses).
//!
//! Reads `tokenizer.json` with model `WordPiece`, normalizer `BertNormalizer`, pre-tokenizer
//! `BertPreTokenizer`, special tokens that stand for themselves, and at most one text in the
//! template.

use serde::Deserialize;
use serde_json::Value;

use super::TokenIds;
use super::bert_text::BertText;
use super::template::{PostProcessor, Template};
use super::vocabulary::Vocabulary;

/// A tokenizer of the BERT form.
#[derive(Debug)]
pub struct WordPiece {
    text: BertText,
    vocabulary: Vocabulary,
    /// What a piece begins with that continues a word.
    prefix: String,
    /// Words of more characters are unknown.
    max_word_chars: usize,
    unknown: u32,
    /// Tokens that are found in the text before it is split.
    special: Vec<(String, u32)>,
    template: Template,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Debug, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // as the file has it
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Debug, Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    max_input_chars_per_word: Option<usize>,
    vocab: Vocabulary,
}

impl WordPiece {
    /// Reads a file; the inner error names what is not of the BERT form.
    ///
    /// # Errors
    /// What is wrong with a file that is no tokenizer at all, or contradicts itself.
    pub fn read(bytes: &[u8]) -> Result<Result<Self, String>, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let File { added_tokens, normalizer, pre_tokenizer, post_processor, model } = file;
        let kind = |value: &Value| value["type"].as_str().unwrap_or("none").to_owned();
        let kinds = [
            ("model", "WordPiece", model.kind.unwrap_or_else(|| "without type".to_owned())),
            ("normalizer", "BertNormalizer", kind(&normalizer)),
            ("pre-tokenizer", "BertPreTokenizer", kind(&pre_tokenizer)),
        ];
        for (part, expected, got) in kinds {
            if got != expected {
                return Ok(Err(format!("the {part} {got}")));
            }
        }
        let other = |token: &&AddedToken| {
            token.single_word || token.lstrip || token.rstrip || token.normalized
        };
        if let Some(token) = added_tokens.iter().find(other) {
            return Ok(Err(format!("the added token {:?} with conditions", token.content)));
        }
        let processor = kind(&post_processor);
        let template =
            serde_json::from_value(post_processor).ok().and_then(PostProcessor::template);
        let Some(template) = template else {
            return Ok(Err(format!("the post-processor {processor}")));
        };
        let text = serde_json::from_value(normalizer).map_err(|error| error.to_string())?;
        let unknown = model.unk_token.unwrap_or_else(|| "[UNK]".to_owned());
        let Some(unknown) = model.vocab.id(&unknown) else {
            return Err(format!("the vocabulary lacks the unknown token {unknown:?}"));
        };
        let mut special: Vec<(String, u32)> = added_tokens
            .into_iter()
            .filter(|token| !token.content.is_empty())
            .map(|token| (token.content, token.id))
            .collect();
        // Where several begin at the same place the longest counts.
        special.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        Ok(Ok(Self {
            text,
            vocabulary: model.vocab,
            prefix: model.continuing_subword_prefix.unwrap_or_else(|| "##".to_owned()),
            max_word_chars: model.max_input_chars_per_word.unwrap_or(100),
            unknown,
            special,
            template,
        }))
    }

    /// Special tokens around a text.
    pub fn surrounding(&self) -> usize {
        self.template.before.len() + self.template.after.len()
    }

    /// Splits a text into at most `max_tokens` tokens, the template's included.
    pub fn ids(&self, text: &str, max_tokens: usize) -> TokenIds {
        let Template { before, after } = &self.template;
        let surrounding = self.surrounding();
        let mut inner = self.inner_ids(text);
        let tokens = surrounding + inner.len();
        inner.truncate(max_tokens.saturating_sub(surrounding));
        let ids = before.iter().chain(&inner).chain(after).copied().map(i64::from).collect();
        TokenIds { ids, tokens }
    }

    /// Ids of the text alone: special tokens as they are, everything else split.
    fn inner_ids(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let (mut start, mut place) = (0, 0);
        while let Some(rest) = text.get(place..).filter(|rest| !rest.is_empty()) {
            let found = self.special.iter().find(|(token, _)| rest.starts_with(token.as_str()));
            if let Some((token, id)) = found {
                self.push_words(&text[start..place], &mut ids);
                ids.push(*id);
                place += token.len();
                start = place;
            } else {
                place += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        self.push_words(&text[start..], &mut ids);
        ids
    }

    fn push_words(&self, text: &str, ids: &mut Vec<u32>) {
        for word in self.text.words(text) {
            let known = ids.len();
            if word.chars().count() > self.max_word_chars || !self.push_pieces(&word, ids) {
                ids.truncate(known);
                ids.push(self.unknown);
            }
        }
    }

    /// Whether the vocabulary has pieces for the whole word.
    fn push_pieces(&self, word: &str, ids: &mut Vec<u32>) -> bool {
        let mut rest = word;
        let mut piece = String::new();
        while !rest.is_empty() {
            piece.clear();
            if rest.len() < word.len() {
                piece.push_str(&self.prefix);
            }
            let prefix = piece.len();
            piece.push_str(rest);
            let found = loop {
                if let Some(id) = self.vocabulary.id(&piece) {
                    break Some(id);
                }
                piece.pop();
                if piece.len() <= prefix {
                    break None;
                }
            };
            let Some(id) = found else { return false };
            ids.push(id);
            rest = &rest[piece.len() - prefix..];
        }
        true
    }
}
