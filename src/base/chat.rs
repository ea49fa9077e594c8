//! Text to tokens, as llama-server's chat endpoint does it: the model's own Jinja template renders
//! the messages, its own tokenizer splits the result, special tokens included.
//!
//! Goes in: a GGUF file, or a Hugging Face directory with `tokenizer.json` and, where there are
//! any, `tokenizer_config.json` and `chat_template.jinja`. Where the model wants its
//! beginning-of-sequence token in front, a prompt starts with exactly one, whether the template
//! writes it or not.
//!
//! A pretrained base has no template. It gets one plain format: the messages, a blank line between
//! them, then a blank line and `Answer:`, which a space and the answer follow. For one user message
//! that is `{input}\n\nAnswer: {answer}`, then the end-of-sequence token.

mod strftime;
mod tokenizer;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::source::hugging_face::read_json;

/// Follows the last message of the plain format.
const PLAIN_ANSWER: &str = "Answer:";
/// Longest template file.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

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
    /// `None` for the plain format.
    templates: Option<Environment<'static>>,
    bos: String,
    eos: String,
    /// Put in front of every prompt.
    added_bos: Option<u32>,
    /// Ends every answer of training.
    pub end_of_turn: u32,
    /// The tokens that end an answer of the base; the first is `end_of_turn`. An instruct model may
    /// end its turns with another token than the end of the sequence.
    pub ends: Vec<u32>,
}

impl Chat {
    /// Reads tokenizer and template from a GGUF file or a Hugging Face directory.
    ///
    /// # Errors
    /// A path without a tokenizer, a tokenizer that is not supported, a template that does not
    /// parse.
    pub fn open(path: &Path) -> Result<Self> {
        let chat = if path.is_dir() { Self::of_directory(path) } else { Self::of_gguf(path) };
        chat.map_err(|error| {
            anyhow!("cannot read the tokenizer of `{}`: {error:#}", path.display())
        })
    }

    fn of_gguf(path: &Path) -> Result<Self> {
        let file = File::open(path).context("cannot open the file")?;
        let content = Content::read(&mut BufReader::new(file)).context("not a GGUF file")?;
        let tokenizer::GgufTokenizer { tokenizer, adds_bos } = tokenizer::read(&content)?;
        let id = |key: &str| content.metadata.get(key).and_then(|value| value.to_u32().ok());
        let end_of_turn =
            id("tokenizer.ggml.eos_token_id").context("no `tokenizer.ggml.eos_token_id`")?;
        let bos_id = id("tokenizer.ggml.bos_token_id");
        let template = match content.metadata.get("tokenizer.chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            _ => None,
        };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let (bos, eos) = (text(bos_id), text(Some(end_of_turn)));
        let more = ["eot_token_id", "eom_token_id"].map(|key| id(&format!("tokenizer.ggml.{key}")));
        let ends = [end_of_turn].into_iter().chain(more.into_iter().flatten()).collect();
        Ok(Self {
            templates: template.map(environment).transpose()?,
            bos: bos.unwrap_or_default(),
            eos: eos.unwrap_or_default(),
            added_bos: bos_id.filter(|_| adds_bos),
            end_of_turn,
            ends,
            tokenizer,
        })
    }

    fn of_directory(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        ensure!(path.is_file(), "there is no `tokenizer.json`");
        let tokenizer = Tokenizer::from_file(&path).map_err(|e| anyhow!(e))?;
        let path = dir.join("tokenizer_config.json");
        let config = if path.is_file() { read_json(&path)? } else { Json::Null };

        let bos = special(&config, "bos_token");
        let bos_id = bos.as_deref().and_then(|text| tokenizer.token_to_id(text));
        let adds_bos = if let Some(adds) = config.get("add_bos_token").and_then(Json::as_bool) {
            adds
        } else {
            let empty = tokenizer.encode("", true).map_err(|e| anyhow!(e))?;
            bos_id.is_some() && empty.get_ids().first().copied() == bos_id
        };
        let end_of_turn = match special(&config, "eos_token") {
            Some(text) => tokenizer
                .token_to_id(&text)
                .with_context(|| format!("the tokenizer has no token `{text}`, its `eos_token`"))?,
            None => *eos_ids(dir)?
                .first()
                .context("neither `eos_token` nor `eos_token_id` names the end of sequence")?,
        };
        let ends = [end_of_turn].into_iter().chain(eos_ids(dir)?).collect();
        let eos = tokenizer.id_to_token(end_of_turn).unwrap_or_default();
        Ok(Self {
            templates: template_of(dir, &config)?.map(environment).transpose()?,
            bos: bos.unwrap_or_default(),
            eos,
            added_bos: bos_id.filter(|_| adds_bos),
            end_of_turn,
            ends,
            tokenizer,
        })
    }

    /// The prompt text for a conversation, up to where the assistant's answer starts.
    ///
    /// # Errors
    /// A template that refuses the conversation, with its message.
    pub fn render(&self, messages: &[Message<'_>]) -> Result<String> {
        let Some(templates) = &self.templates else {
            return Ok(plain(messages));
        };
        let context = minijinja::context! {
            messages, add_generation_prompt => true, bos_token => self.bos, eos_token => self.eos,
        };
        let rendered = templates.get_template("chat").and_then(|chat| chat.render(context));
        rendered.map_err(|error| {
            let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            anyhow!("the chat template refuses the conversation: {reason}")
        })
    }

    /// Prompt tokens for a single user message.
    ///
    /// # Errors
    /// As [`Chat::render`].
    pub fn prompt(&self, user: &str) -> Result<Vec<u32>> {
        self.prompt_tokens(&self.render(&[Message { role: "user", content: user }])?)
    }

    /// Tokens of a rendered prompt, with the beginning-of-sequence token if the model wants it.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode.
    pub fn prompt_tokens(&self, rendered: &str) -> Result<Vec<u32>> {
        let Some(bos) = self.added_bos else {
            return self.tokens(rendered);
        };
        let rest = rendered.strip_prefix(&self.bos).unwrap_or(rendered);
        let mut tokens = vec![bos];
        tokens.extend(self.tokens(rest)?);
        Ok(tokens)
    }

    /// What stands between a prompt and the text of its answer: a space in the plain format.
    pub fn answer_prefix(&self) -> &'static str {
        if self.templates.is_some() { "" } else { " " }
    }

    /// Tokens of an answer, what stands before it and the end of turn included.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokens(&format!("{}{text}", self.answer_prefix()))?;
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

/// The template as llama.cpp's and Hugging Face's engines read it.
fn environment(template: String) -> Result<Environment<'static>> {
    let mut templates = Environment::new();
    templates.set_trim_blocks(true);
    templates.set_lstrip_blocks(true);
    templates.set_keep_trailing_newline(true);
    templates.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    templates.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    templates.add_function("strftime_now", |format: String| strftime::strftime_now(&format));
    templates.add_template_owned("chat", template).context("the chat template is invalid")?;
    Ok(templates)
}

/// The format of bases without a template.
fn plain(messages: &[Message<'_>]) -> String {
    let mut text = String::new();
    for message in messages {
        if message.role == "assistant" {
            text.push_str(PLAIN_ANSWER);
            text.push(' ');
        }
        text.push_str(message.content);
        text.push_str("\n\n");
    }
    text + PLAIN_ANSWER
}

/// A special token of `tokenizer_config.json`: its text, or an object with it.
fn special(config: &Json, key: &str) -> Option<String> {
    let value = config.get(key)?;
    let text = value.as_str().or_else(|| value.get("content").and_then(Json::as_str));
    text.map(str::to_owned)
}

/// The tokens that end a sequence, as the model's settings list them.
fn eos_ids(dir: &Path) -> Result<Vec<u32>> {
    for file in ["generation_config.json", "config.json"] {
        let path = dir.join(file);
        if !path.is_file() {
            continue;
        }
        let json = read_json(&path)?;
        let ids: Vec<u64> = match json.get("eos_token_id") {
            Some(Json::Array(list)) => list.iter().filter_map(Json::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect(),
            None => Vec::new(),
        };
        if !ids.is_empty() {
            let ids = ids.into_iter().map(u32::try_from).collect::<Result<_, _>>();
            return ids.with_context(|| format!("`eos_token_id` of `{file}`"));
        }
    }
    Ok(Vec::new())
}

/// `chat_template.jinja`, else `chat_template` of the tokenizer's settings: one, or several of
/// which `default` counts.
fn template_of(dir: &Path, config: &Json) -> Result<Option<String>> {
    let path = dir.join("chat_template.jinja");
    if path.is_file() {
        let length_bytes = fs::metadata(&path)?.len();
        ensure!(length_bytes <= MAX_TEMPLATE_BYTES, "a template of {length_bytes} bytes");
        return Ok(Some(fs::read_to_string(&path)?));
    }
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(template)) => Ok(Some(template.clone())),
        Some(Json::Array(named)) => {
            let is_default = |entry: &&Json| entry.get("name") == Some(&Json::from("default"));
            let template = named.iter().find(is_default).and_then(|entry| entry.get("template"));
            let template = template.and_then(Json::as_str);
            Ok(Some(template.context("`chat_template` has no entry `default`")?.to_owned()))
        }
        Some(_) => anyhow::bail!("`chat_template` is neither a text nor a list"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Message, environment, plain};

    #[test]
    fn a_template_says_why_it_refuses() {
        let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}\
                        {% endif %}{{ strftime_now('%Y') | length }}";
        let templates = environment(template.to_owned()).unwrap();
        let chat = templates.get_template("chat").unwrap();
        let render = |role: &str| {
            let messages = [Message { role, content: "" }];
            chat.render(minijinja::context! { messages })
        };
        assert_eq!(render("user").unwrap(), "4");
        assert_eq!(render("system").unwrap_err().detail(), Some("no system"));
    }

    #[test]
    fn the_plain_format_asks_for_an_answer() {
        let user = Message { role: "user", content: "big" };
        assert_eq!(plain(std::slice::from_ref(&user)), "big\n\nAnswer:");
        let answer = Message { role: "assistant", content: "small" };
        assert_eq!(plain(&[user.clone(), answer, user]), "big\n\nAnswer: small\n\nbig\n\nAnswer:");
    }
}
