//! Text to tokens, as llama-server's chat endpoint does it: the GGUF file's own Jinja template
//! renders the messages, its own tokenizer splits the result, special tokens included.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use minijinja::Environment;
use serde::Serialize;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// One message of a conversation.
#[derive(Debug, Clone, Serialize)]
pub struct Message<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'a str,
    /// The text.
    pub content: &'a str,
}

/// Tokenizer and chat template of a base model.
#[derive(Debug)]
pub struct Chat {
    tokenizer: Tokenizer,
    templates: Environment<'static>,
    bos: String,
    eos: String,
    /// Ends every answer.
    pub end_of_turn: u32,
}

impl Chat {
    /// Reads tokenizer and template from a GGUF file.
    ///
    /// # Errors
    /// A file without them, a template that does not parse.
    pub fn from_gguf(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let content = Content::read(&mut BufReader::new(file))
            .with_context(|| format!("`{}` is not a GGUF file", path.display()))?;
        let value = |key: &str| content.metadata.get(key).with_context(|| format!("no `{key}`"));
        let template = value("tokenizer.chat_template")?.to_string()?.clone();
        let end_of_turn = value("tokenizer.ggml.eos_token_id")?.to_u32()?;
        let tokenizer = read_tokenizer(&content)?;
        let special = |key: &str| -> String {
            let id = content.metadata.get(key).and_then(|v| v.to_u32().ok());
            id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default()
        };
        let mut templates = Environment::new();
        // What Hugging Face's and llama.cpp's template engines do.
        templates.set_trim_blocks(true);
        templates.set_lstrip_blocks(true);
        templates.set_keep_trailing_newline(true);
        templates.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        templates.add_template_owned("chat", template).context("the chat template is invalid")?;
        let (bos, eos) =
            (special("tokenizer.ggml.bos_token_id"), special("tokenizer.ggml.eos_token_id"));
        Ok(Self { tokenizer, templates, bos, eos, end_of_turn })
    }

    /// The prompt text for a conversation, up to where the assistant's answer starts.
    ///
    /// # Errors
    /// A template that refuses the conversation.
    pub fn render(&self, messages: &[Message<'_>]) -> Result<String> {
        let context = minijinja::context! {
            messages, add_generation_prompt => true, bos_token => self.bos, eos_token => self.eos,
        };
        Ok(self.templates.get_template("chat")?.render(context)?)
    }

    /// Prompt tokens for a single user message.
    ///
    /// # Errors
    /// As [`Chat::render`].
    pub fn prompt(&self, user: &str) -> Result<Vec<u32>> {
        self.tokens(&self.render(&[Message { role: "user", content: user }])?)
    }

    /// Tokens of an answer, end of turn included.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokens(text)?;
        tokens.push(self.end_of_turn);
        Ok(tokens)
    }

    /// Tokens of any text; special tokens are recognized, none are added.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| anyhow!(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens, special tokens left out.
    ///
    /// # Errors
    /// Tokens that do not form text.
    pub fn text(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(|e| anyhow!(e))
    }
}

fn read_tokenizer(content: &Content) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_gguf(content)?;
    let kind = match content.metadata.get("tokenizer.ggml.pre") {
        Some(Value::String(kind)) => kind.as_str(),
        _ => "",
    };
    // Candle knows no such pre-tokenizer and falls back to GPT-2's with a space added in front.
    if kind == "smollm" {
        let digits = Digits::new(true);
        let bytes = ByteLevel::new(false, true, true);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![digits.into(), bytes.into()])));
    }
    Ok(tokenizer)
}
