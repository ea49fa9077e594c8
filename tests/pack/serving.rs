//! How llama-server is to be started with a pack; `tests/serve.rs` starts it.

use serde_json::json;

use crate::{Pack, THREE, manifest};

const VERB: [&str; 2] = ["pack", "serve-args"];

/// The verb with more arguments.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&VERB[..], more].concat()
}

#[test]
fn a_command_and_a_request_for_every_adapter() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "build"]);
    let found = pack.json(&VERB);
    let list = "adapters/antonym.gguf:0,adapters/french.gguf:0,adapters/legal.gguf:0";
    let command = ["llama-server", "-m", "SmolLM2-135M-Instruct.gguf", "--lora-scaled", list];
    assert_eq!(found["command"], json!(command));
    let second = json!({"id": 1, "name": "french", "path": "adapters/french.gguf"});
    assert_eq!((found["adapters"].as_array().unwrap().len(), &found["adapters"][1]), (3, &second));
    let scales = |scales: [f64; 3]| {
        let scale = |(id, scale): (usize, f64)| json!({"id": id, "scale": scale});
        json!(scales.into_iter().enumerate().map(scale).collect::<Vec<_>>())
    };
    assert_eq!(found["initial"], scales([0.0, 0.0, 0.0]));
    let request = |of: [f64; 3]| json!({"lora": scales(of), "cache_prompt": false});
    assert_eq!(found["base_request"], request([0.0, 0.0, 0.0]));
    assert_eq!(found["requests"]["antonym"], request([1.0, 0.0, 0.0]));
    assert_eq!(found["requests"]["french"], request([0.0, 1.0, 0.0]));
    assert_eq!(found["requests"].as_object().unwrap().len(), 3);

    let one = pack.json(&with(&["--adapter", "legal"]));
    assert_eq!(one["requests"], json!({"legal": request([0.0, 0.0, 1.0])}));
    assert_eq!(one["command"], found["command"]);
}

#[cfg(unix)]
#[test]
fn what_is_printed_can_be_pasted() {
    use std::process::Command;

    let pack = Pack::of(&THREE);
    let args = with(&["--directory", "it's here", "--adapter", "french"]);
    pack.done(&["pack", "build", "--out", "it's here"]);
    let output = pack.done(&args);
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "\n# 2 legal\n",
        "\n# POST /lora-adapters at the start: [{\"id\":0,\"scale\":0.0},",
        "\n# in every request to `french`: {",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    // A server that says what it was given.
    std::fs::create_dir(pack.path("bin")).unwrap();
    std::os::unix::fs::symlink("/bin/echo", pack.path("bin/llama-server")).unwrap();
    let mut shell = Command::new("/bin/sh");
    let ran = shell.args(["-c", &printed]).env("PATH", pack.path("bin")).output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    let command = pack.json(&args)["command"].clone();
    let words: Vec<&str> =
        command.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(said, format!("{}\n", words[1..].join(" ")));
    assert!(said.contains("it's here/antonym.gguf:0,it's here/french.gguf:0,"), "{said}");
}

#[test]
fn packs_that_cannot_be_served() {
    let pack = Pack::of(&THREE);
    let refused = |more: &[&str], expected: &[&str]| {
        let said = pack.refused(1, &with(more));
        for part in expected {
            assert!(said.contains(part), "{part}: {said}");
        }
    };
    refused(&[], &["there is no `pack.lock`"]);
    pack.done(&["pack", "lock"]);
    refused(&[], &["`french.gguf` is missing", "hint: ", "`t2lc pack build`"]);
    pack.done(&["pack", "build"]);
    pack.write("adapters/legal.gguf", "damaged");
    refused(&[], &["`legal.gguf` has 7 bytes"]);
    pack.done(&["pack", "build"]);
    refused(&["--directory", "a,b"], &["`a,b/antonym.gguf` contains `,`"]);
    refused(&["--directory", "a:b"], &["contains `:`", "hint: "]);
    refused(&["--adapter", "german"], &["no adapter `german`"]);
    refused(&["--base", "missing.gguf"], &["cannot read `missing.gguf`"]);
    refused(&["--base", "pack.toml"], &["not a sound GGUF file"]);
    refused(&["--base", "adapters/legal.gguf"], &["has no fingerprint"]);

    let output = pack.run(&with(&["--directory", "a:b", "--json"]));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["schema"], &said["error"]["code"]), (&json!(1), &json!("pack.serve")));
}

#[test]
fn a_server_does_not_load_peft_directories() {
    let pack = Pack::new();
    let text = manifest(&THREE[..1]).replacen('\n', "\npack.format = \"peft\"\n", 1);
    pack.write("pack.toml", &text);
    pack.done(&["pack", "build"]);
    let said = pack.refused(1, &VERB);
    assert!(said.contains("1 adapters are PEFT directories: `legal`"), "{said}");
    assert!(said.contains("hint: set `format = \"gguf\"`"), "{said}");
}
