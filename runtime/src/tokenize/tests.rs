//! Files of the BERT form give the ids that the general library gives; other files are refused or
//! handed to it.

use serde_json::{Value, json};

use super::word_piece::WordPiece;
use super::{TokenIds, Tokenizer};

/// A file of the BERT form with a few words.
fn small_file() -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let mut vocabulary = serde_json::Map::new();
    let words = ["[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", "[", "]", "é", "##é", "e"];
    for (id, word) in words.iter().enumerate() {
        vocabulary.insert((*word).to_owned(), json!(id));
    }
    json!({
        "version": "1.0",
        "added_tokens": [special(1, "[CLS]"), special(2, "[SEP]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
}

fn read(file: &Value) -> Result<Result<WordPiece, String>, String> {
    WordPiece::read(&serde_json::to_vec(file).unwrap())
}

fn ids(file: &Value, text: &str) -> Vec<i64> {
    read(file).unwrap().unwrap().ids(text, 256).ids
}

#[test]
fn words_become_their_longest_pieces() {
    let file = small_file();
    assert_eq!(ids(&file, "Playing  plays"), [1, 3, 4, 3, 5, 2]);
    assert_eq!(ids(&file, "playful"), [1, 0, 2]);
    assert_eq!(ids(&file, "[SEP][x]"), [1, 2, 6, 0, 7, 2]);
    assert_eq!(ids(&file, "é"), [1, 10, 2]);
    assert_eq!(ids(&file, ""), [1, 2]);
}

#[test]
fn accents_stay_if_the_file_says_so() {
    let mut file = small_file();
    file["normalizer"]["strip_accents"] = json!(false);
    assert_eq!(ids(&file, "éÉ"), [1, 8, 9, 2]);
    file["normalizer"]["lowercase"] = json!(false);
    assert_eq!(ids(&file, "Play"), [1, 0, 2]);
}

#[test]
fn a_cut_keeps_the_special_tokens() {
    let tokenizer = Tokenizer::WordPiece(read(&small_file()).unwrap().unwrap());
    let cut = tokenizer.ids("playing plays", 4).unwrap();
    assert_eq!(cut, TokenIds { ids: vec![1, 3, 4, 2], tokens: 6 });
    assert!(cut.truncated() && !tokenizer.ids("play", 4).unwrap().truncated());
    let problem = tokenizer.ids("play", 2).unwrap_err();
    assert_eq!(problem, "it has 2 special tokens around at most 2");
}

#[test]
fn a_template_may_hold_any_special_tokens() {
    let mut file = small_file();
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special("[CLS]"), special("[SEP]"), text, special("[SEP]")],
        "pair": [],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                           "[SEP]": {"id": "[SEP]", "ids": [2, 2], "tokens": ["[SEP]"]}},
    });
    assert_eq!(ids(&file, "play"), [1, 2, 2, 3, 2, 2]);
    // A short file that stands for a long list.
    file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!(vec![2; 4096]);
    assert_eq!(read(&file).unwrap().unwrap_err(), "the post-processor TemplateProcessing");
}

/// Sets one field of a file.
type Change = fn(&mut Value);

#[test]
fn other_forms_are_named() {
    let changes: [(Change, &str); 7] = [
        (|file| file["model"]["type"] = json!("BPE"), "model BPE"),
        (|file| file["model"]["vocab"] = json!([["a", -1.0]]), "unknown token"),
        (|file| file["normalizer"] = json!({"type": "NFC"}), "normalizer NFC"),
        (|file| file["pre_tokenizer"] = json!(null), "pre-tokenizer none"),
        (|file| file["post_processor"] = json!({"type": "Other"}), "post-processor Other"),
        (|file| file["added_tokens"][0]["lstrip"] = json!(true), "\"[CLS]\" with conditions"),
        (|file| file["model"]["unk_token"] = json!("?"), "unknown token \"?\""),
    ];
    for (change, expected) in changes {
        let mut file = small_file();
        change(&mut file);
        let problem = read(&file).map_or_else(|problem| problem, |other| other.unwrap_err());
        assert!(problem.contains(expected), "{problem}");
    }
    assert!(WordPiece::read(b"{}").is_err() && WordPiece::read(b"a tokenizer").is_err());
    let twice = br#"{"model": {"vocab": {"a": 1, "b": 2, "a": 3}}}"#;
    assert!(WordPiece::read(twice).unwrap_err().contains("\"a\" twice"));
}

#[cfg(not(feature = "tokenizers"))]
#[test]
fn other_forms_need_the_library() {
    let mut file = small_file();
    file["normalizer"] = json!({"type": "NFC"});
    let problem = Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap()).unwrap_err();
    assert!(problem.contains("normalizer NFC") && problem.contains("`tokenizers`"), "{problem}");
}

#[cfg(feature = "tokenizers")]
mod library {
    //! Against the general library.

    use proptest::prelude::*;

    use super::*;

    fn default_file() -> Vec<u8> {
        let path = "/../fixtures/smollm2-135m-instruct.t2lc/tokenizer.json";
        std::fs::read(format!("{}{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn both() -> (WordPiece, Tokenizer) {
        let file = default_file();
        let library = Tokenizer::library(&file, "").unwrap();
        (WordPiece::read(&file).unwrap().unwrap(), library)
    }

    #[test]
    fn every_character_is_split_alike() {
        let (ours, library) = both();
        // A row of characters at a time, between words that they can join or part.
        let characters: Vec<char> = ('\u{1}'..=char::MAX).collect();
        let mut different: Vec<char> = Vec::new();
        for row in characters.chunks(64) {
            let text = |row: &[char]| {
                let words: Vec<String> = row.iter().map(|c| format!("in{c}to")).collect();
                words.join(" ")
            };
            let split = |row: &[char]| {
                let text = text(row);
                ours.ids(&text, 4096) == library.ids(&text, 4096).unwrap()
            };
            if !split(row) {
                different.extend(row.iter().filter(|c| !split(&[**c])));
            }
        }
        assert_eq!(different, []);
    }

    #[test]
    fn other_forms_go_to_the_library() {
        let mut file = small_file();
        file["normalizer"] = json!({"type": "Lowercase"});
        let tokenizer = Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap()).unwrap();
        assert!(matches!(tokenizer, Tokenizer::Library(_)));
        let cut = tokenizer.ids("Playing plays", 4).unwrap();
        assert_eq!(cut, TokenIds { ids: vec![1, 3, 4, 2], tokens: 6 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_text_is_split_alike(
            parts in prop::collection::vec(
                prop_oneof![
                    "[a-zA-Z]{1,12}",
                    "\\PC{0,8}",
                    "[ \\t\\n.,;!?'\"\\[\\]#-]{1,4}",
                    "[\u{e0}-\u{17f}\u{300}-\u{30f}\u{4e00}-\u{4e20}\u{ac00}-\u{ac20}]{1,4}",
                    prop::sample::select(vec!["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "##s"])
                        .prop_map(str::to_owned),
                    "[a-z]{95,105}",
                ],
                0..12,
            ),
            max_tokens in 3_usize..40,
        ) {
            thread_local! {
                static BOTH: (WordPiece, Tokenizer) = both();
            }
            let text = parts.concat();
            BOTH.with(|(ours, library)| {
                prop_assert_eq!(ours.ids(&text, max_tokens), library.ids(&text, max_tokens).unwrap());
                Ok(())
            })?;
        }
    }
}
