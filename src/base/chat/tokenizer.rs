//! The tokenizer in a GGUF file: byte-level BPE (`gpt2`) or `SentencePiece` (`llama`), split as
//! llama.cpp splits.
//!
//! A byte-level tokenizer depends on how text is cut into words first, `tokenizer.ggml.pre`; an
//! unknown way is refused, as it would give other tokens than the deployed model sees.
//! `SentencePiece` models are stored as pieces with scores; joining the two neighbours whose union
//! scores best is BPE whose merges are ordered by score.

use std::collections::HashSet;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as NormalizerSequence;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, Tokenizer};

/// Words of Llama 3: as GPT-2's, with numbers in groups of three and case-blind contractions.
const LLAMA_3_WORDS: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// A tokenizer, and whether llama.cpp puts the beginning-of-sequence token in front.
pub(super) struct GgufTokenizer {
    pub(super) tokenizer: Tokenizer,
    pub(super) adds_bos: bool,
}

/// Reads the tokenizer of a GGUF file.
pub(super) fn read(content: &Content) -> Result<GgufTokenizer> {
    let text = |key: &str| match content.metadata.get(key) {
        Some(Value::String(value)) => Some(value.as_str()),
        _ => None,
    };
    let flag = |key: &str| content.metadata.get(key).and_then(|value| value.to_bool().ok());
    let (tokenizer, adds_bos) = match text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(content, text("tokenizer.ggml.pre").unwrap_or("default"))?,
        Some("llama") => {
            let spaced = flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
            (sentence_piece(content, spaced)?, true)
        }
        other => bail!(
            "the tokenizer `{}` is not supported, expected `gpt2` or `llama`",
            other.unwrap_or("none")
        ),
    };
    let adds_bos = flag("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos);
    Ok(GgufTokenizer { tokenizer, adds_bos })
}

fn byte_level(content: &Content, kind: &str) -> Result<(Tokenizer, bool)> {
    let mut tokenizer = Tokenizer::from_gguf(content)?;
    // llama.cpp does not compose characters first.
    tokenizer.with_normalizer(None::<NormalizerWrapper>).map_err(|e| anyhow!(e))?;
    match kind {
        // Candle knows no such pre-tokenizer and falls back to GPT-2's with a space in front.
        "smollm" => {
            let digits = Digits::new(true);
            let bytes = ByteLevel::new(false, true, true);
            tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![digits.into(), bytes.into()])));
        }
        "gpt-2" | "default" => {
            tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        }
        // Candle's is right.
        "qwen2" => {}
        "llama-bpe" | "llama3" | "llama-v3" => {
            let words = SplitPattern::Regex(LLAMA_3_WORDS.to_owned());
            let words = Split::new(words, SplitDelimiterBehavior::Isolated, false);
            let words = words.map_err(|e| anyhow!(e))?;
            let bytes = ByteLevel::new(false, true, false);
            tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
            if let ModelWrapper::BPE(mut bpe) = tokenizer.get_model().clone() {
                bpe.ignore_merges = true;
                tokenizer.with_model(bpe);
            }
            return Ok((tokenizer, true));
        }
        _ => bail!(
            "the pre-tokenizer `{kind}` is not supported, expected `smollm`, `qwen2`, `llama-bpe` \
             or `gpt-2`"
        ),
    }
    Ok((tokenizer, false))
}

/// `SentencePiece`, with a space in front of the text if `spaced`.
fn sentence_piece(content: &Content, spaced: bool) -> Result<Tokenizer> {
    let list = |key: &str| -> Result<&Vec<Value>> {
        let value = content.metadata.get(key).with_context(|| format!("no `{key}`"))?;
        Ok(value.to_vec()?)
    };
    let pieces = list("tokenizer.ggml.tokens")?.iter().map(|piece| Ok(piece.to_string()?.as_str()));
    let pieces: Vec<&str> = pieces.collect::<Result<_>>()?;
    let scores = list("tokenizer.ggml.scores")?.iter().map(|score| Ok(score.to_f32()?));
    let scores: Vec<f32> = scores.collect::<Result<_>>()?;
    let types: Vec<i64> = list("tokenizer.ggml.token_type")?.iter().map(token_type).collect();
    ensure!(
        pieces.len() == scores.len() && pieces.len() == types.len(),
        "{} tokens with {} scores and {} types",
        pieces.len(),
        scores.len(),
        types.len()
    );

    let mut vocabulary = Vocab::default();
    for (id, piece) in pieces.iter().enumerate() {
        vocabulary.insert((*piece).to_owned(), u32::try_from(id)?);
    }
    let known: HashSet<&str> = pieces.iter().copied().collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for ((piece, &score), _) in
        pieces.iter().zip(&scores).zip(&types).filter(|(_, kind)| **kind == NORMAL)
    {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if known.contains(left) && known.contains(right) {
                merges.push((score, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges = merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned()));

    let of = |wanted: i64| pieces.iter().zip(&types).filter(move |(_, kind)| **kind == wanted);
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges.collect())
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some((unknown, _)) = of(UNKNOWN).next() {
        bpe = bpe.unk_token((*unknown).to_owned());
    }
    let mut tokenizer = Tokenizer::new(bpe.build().map_err(|e| anyhow!(e))?);

    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|e| anyhow!(e));
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace("▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if spaced {
        normalizers.push(Prepend::new("▁".to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(replace(" ", "▁")?.into());
    let normalizer = NormalizerSequence::new(normalizers);
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| anyhow!(e))?;
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));

    let control = of(CONTROL).chain(of(UNKNOWN));
    let control = control.map(|(piece, _)| AddedToken::from((*piece).to_owned(), true));
    let control: Vec<AddedToken> = control.collect();
    tokenizer.add_special_tokens(control).map_err(|e| anyhow!(e))?;
    // Found in the text as it was typed, before spaces are replaced.
    let user = of(USER_DEFINED)
        .map(|(piece, _)| AddedToken::from((*piece).to_owned(), false).normalized(false));
    let user: Vec<AddedToken> = user.collect();
    tokenizer.add_tokens(user).map_err(|e| anyhow!(e))?;
    Ok(tokenizer)
}

/// The type of a token, whichever integer it is stored as.
fn token_type(value: &Value) -> i64 {
    match value {
        Value::I32(kind) => i64::from(*kind),
        Value::U32(kind) => i64::from(*kind),
        Value::I8(kind) => i64::from(*kind),
        Value::U8(kind) => i64::from(*kind),
        _ => NORMAL,
    }
}
