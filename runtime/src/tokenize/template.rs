//! What surrounds the tokens of a text: the file's `post_processor`, for a single text.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::bundle::MAX_ENCODER_TOKENS;

/// Ids before and after those of the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Template {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

/// The forms of `post_processor` that are read.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessor {
    /// The two special tokens of BERT.
    BertProcessing {
        /// Word and id of the token at the end.
        sep: (String, u32),
        /// Word and id of the token at the start.
        cls: (String, u32),
    },
    /// Any special tokens.
    TemplateProcessing {
        /// Pieces of a single text.
        single: Vec<Piece>,
        /// Ids of the special tokens by name.
        special_tokens: BTreeMap<String, Special>,
    },
}

#[derive(Debug, Deserialize)]
pub(super) enum Piece {
    SpecialToken { id: String },
    Sequence { id: String },
}

#[derive(Debug, Deserialize)]
pub(super) struct Special {
    ids: Vec<u32>,
}

impl PostProcessor {
    /// Its template; nothing unless the text is in it exactly once, within what an encoder reads.
    pub(super) fn template(self) -> Option<Template> {
        let (single, special_tokens) = match self {
            Self::BertProcessing { sep, cls } => {
                return Some(Template { before: vec![cls.1], after: vec![sep.1] });
            }
            Self::TemplateProcessing { single, special_tokens } => (single, special_tokens),
        };
        let mut template = Template::default();
        let mut texts = 0;
        for piece in single {
            match piece {
                Piece::Sequence { id } if id == "A" => texts += 1,
                Piece::Sequence { .. } => return None,
                Piece::SpecialToken { id } => {
                    let ids = &special_tokens.get(&id)?.ids;
                    // A list that is named often is long many times over.
                    let sum = template.before.len() + template.after.len() + ids.len();
                    if sum > MAX_ENCODER_TOKENS {
                        return None;
                    }
                    let side = if texts == 0 { &mut template.before } else { &mut template.after };
                    side.extend(ids);
                }
            }
        }
        (texts == 1).then_some(template)
    }
}
