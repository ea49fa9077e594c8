//! Solved examples in the prompt (in-context learning).
//!
//! In: training examples of a task and the input of the example to solve. Out: the prompt's tokens.
//! Each training example is a user message and the assistant's answer to it. Where the chat
//! template refuses such a conversation or leaves a part of it out, all of it is one user message:
//! input, line end, answer and a blank line for each example, then the input.

use anyhow::Result;

use crate::base::chat::{Chat, Message};
use crate::taskpack::Example;

/// Prompt tokens for `input` behind the solved examples `shots`.
///
/// # Errors
/// A template that refuses a single user message, text that the tokenizer cannot encode.
pub(super) fn prompt(chat: &Chat, shots: &[&Example], input: &str) -> Result<Vec<u32>> {
    let mut turns = Vec::with_capacity(2 * shots.len() + 1);
    for shot in shots {
        turns.push(Message { role: "user", content: &shot.input });
        turns.push(Message { role: "assistant", content: &shot.output });
    }
    turns.push(Message { role: "user", content: input });
    let rendered = chat.render(&turns).ok().filter(|text| holds_all(text, &turns));
    let Some(text) = rendered else { return chat.prompt(&one_message(shots, input)) };
    chat.prompt_tokens(&text)
}

/// Whether a rendered conversation has every turn, in order; templates trim white space.
fn holds_all(text: &str, turns: &[Message<'_>]) -> bool {
    let mut rest = text;
    for turn in turns {
        let Some((_, after)) = rest.split_once(turn.content.trim()) else { return false };
        rest = after;
    }
    true
}

fn one_message(shots: &[&Example], input: &str) -> String {
    let mut message = String::new();
    for shot in shots {
        message.extend([shot.input.as_str(), "\n", shot.output.as_str(), "\n\n"]);
    }
    message + input
}

#[cfg(test)]
mod tests {
    use super::super::tiny_model::TinyModel;
    use super::prompt;
    use crate::taskpack::{Example, ExampleSplit};

    fn shot(input: &str, output: &str) -> Example {
        Example {
            split: ExampleSplit::Train,
            input: input.into(),
            output: output.into(),
            choices: Vec::new(),
            refs: Vec::new(),
        }
    }

    fn check(template: &str, expected: &str) {
        let chat = TinyModel::with_template(template).chat;
        let (first, second) = (shot("a dog", "d o g"), shot("a cat", "c a t"));
        let tokens = prompt(&chat, &[&first, &second], "a hen").unwrap();
        assert_eq!(tokens, chat.tokens(expected).unwrap(), "{template}");
        assert!(!tokens.is_empty());
    }

    #[test]
    fn shots_are_turns_where_the_template_allows_it() {
        let template =
            "{% for m in messages %}{{ m.role | first }}:{{ m.content }}\n{% endfor %}a:";
        check(template, "u:a dog\na:d o g\nu:a cat\na:c a t\nu:a hen\na:");
    }

    #[test]
    fn shots_are_in_one_message_where_the_template_drops_or_refuses_turns() {
        let expected = "a dog\nd o g\n\na cat\nc a t\n\na hen:";
        check("{{ messages[0].content }}:", expected);
        let refuses = "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}\
                       {{ messages[0].content }}:";
        check(refuses, expected);
    }
}
