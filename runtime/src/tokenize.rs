//! Canonical description → token ids, as a `tokenizer.json` file says
//! (<https://huggingface.co/docs/tokenizers>).
//!
//! A file of the BERT form (MiniLM, bge, e5, gte) is read by [`word_piece`], which takes a fifth of
//! the time and memory of the general library and is what a small build has. Any other file needs
//! the feature `tokenizers`. For files of the BERT form both give the same ids; tests hold them to
//! it. Settings for padding and truncation in the file are ignored: the caller decides.

mod bert_text;
mod template;
mod vocabulary;
pub mod word_piece;

use word_piece::WordPiece;

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    /// At most as many ids as were asked for, special tokens included.
    pub ids: Vec<i64>,
    /// Tokens of the whole text, special tokens included.
    pub tokens: usize,
}

impl TokenIds {
    /// Whether the text was cut.
    pub fn truncated(&self) -> bool {
        self.ids.len() < self.tokens
    }
}

/// A tokenizer file in memory.
#[derive(Debug)]
pub enum Tokenizer {
    /// One of the BERT form.
    WordPiece(WordPiece),
    /// Any other.
    #[cfg(feature = "tokenizers")]
    Library(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with the file, or what of it this build cannot do.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        match WordPiece::read(bytes)? {
            Ok(word_piece) => Ok(Self::WordPiece(word_piece)),
            Err(other) => Self::library(bytes, &other),
        }
    }

    #[cfg(feature = "tokenizers")]
    fn library(bytes: &[u8], _other: &str) -> Result<Self, String> {
        let mut tokenizer =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        Ok(Self::Library(Box::new(tokenizer)))
    }

    #[cfg(not(feature = "tokenizers"))]
    fn library(_bytes: &[u8], other: &str) -> Result<Self, String> {
        Err(format!("it has {other}, which a build without the feature `tokenizers` cannot read"))
    }

    /// Splits a text into at most `max_tokens` tokens; what is cut off is before the special tokens
    /// at the end, so that these stay.
    ///
    /// # Errors
    /// Special tokens that leave no room for the text; what the library says of one that it cannot
    /// split.
    pub fn ids(&self, text: &str, max_tokens: usize) -> Result<TokenIds, String> {
        let special = self.surrounding();
        if special >= max_tokens {
            return Err(format!("it has {special} special tokens around at most {max_tokens}"));
        }
        match self {
            Self::WordPiece(word_piece) => Ok(word_piece.ids(text, max_tokens)),
            #[cfg(feature = "tokenizers")]
            Self::Library(tokenizer) => {
                library_ids(tokenizer, text, max_tokens).map_err(|error| error.to_string())
            }
        }
    }

    /// Special tokens around a text.
    fn surrounding(&self) -> usize {
        match self {
            Self::WordPiece(word_piece) => word_piece.surrounding(),
            #[cfg(feature = "tokenizers")]
            Self::Library(tokenizer) => {
                use tokenizers::PostProcessor as _;
                let processor = tokenizer.get_post_processor();
                processor.map_or(0, |processor| processor.added_tokens(false))
            }
        }
    }
}

#[cfg(feature = "tokenizers")]
fn library_ids(
    tokenizer: &tokenizers::Tokenizer,
    text: &str,
    max_tokens: usize,
) -> tokenizers::Result<TokenIds> {
    let mut encoding = tokenizer.encode(text, true)?;
    let tokens = encoding.len();
    if tokens > max_tokens {
        let short = tokenizers::TruncationParams {
            max_length: max_tokens,
            ..tokenizers::TruncationParams::default()
        };
        let mut cutting = tokenizer.clone();
        cutting.with_truncation(Some(short))?;
        encoding = cutting.encode(text, true)?;
    }
    let ids = encoding.get_ids().iter().copied().map(i64::from).collect();
    Ok(TokenIds { ids, tokens })
}

#[cfg(test)]
mod tests;
