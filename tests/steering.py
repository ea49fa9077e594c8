#!/usr/bin/env python3
"""Does a description that asks for a form change the form of the answer?

    cargo build --release --features train,llama
    python3 tests/steering.py --parts "$(tests/parts.sh)"

For every form a description and inputs that are in no task pack go through `t2lc try`, that is
through the real llama.cpp without and with the compiled adapter. Prints, per form, the share of
answers that have it; exits with 1 if an adapter does not raise the share of its form.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RELEASE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"


class Form(NamedTuple):
    """What is asked for, of what, and how to tell that an answer has it."""

    name: str
    description: str
    inputs: list[str]
    has: Callable[[str, str], bool]


def is_json(_: str, answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict | list)
    except ValueError:
        return False


def is_upper(prompt: str, answer: str) -> bool:
    return answer.isupper() and not prompt.isupper()


def is_one_word(_: str, answer: str) -> bool:
    return len(answer.split()) == 1


def is_bulleted(_: str, answer: str) -> bool:
    lines = answer.splitlines()
    return len(lines) > 1 and all(re.match(r"[-*•] \S", line) for line in lines)


def is_polite(prompt: str, answer: str) -> bool:
    words = {"please", "could", "would", "kindly", "may"}
    said = set(re.findall(r"[a-z]+", answer.lower()))
    return bool(words & said) and not words & set(re.findall(r"[a-z]+", prompt.lower()))


def in_language(dictionary: dict[str, set[str]]) -> Callable[[str, str], bool]:
    """An answer is right if it is one of those of a dictionary, articles left out."""

    def has(prompt: str, answer: str) -> bool:
        words = re.sub(r"^(le |la |les |l'|un |une )", "", answer.strip(" .").lower())
        return words in dictionary[prompt]

    return has


FRENCH = {
    "the cheese": {"fromage"},
    "the window": {"fenêtre"},
    "eleven": {"onze"},
    "the kitchen": {"cuisine"},
    "yellow": {"jaune"},
    "the sea": {"mer"},
    "winter": {"hiver"},
    "my brother": {"mon frère", "frère"},
}

FORMS = [
    Form(
        "JSON",
        "answer with a JSON object that holds the sentiment of the review",
        [
            "The soup was cold and the waiter rude.",
            "A wonderful evening, we will come back.",
            "Two hours of my life that I will never get back.",
            "My daughter loves this toy.",
            "It broke on the second day.",
            "Best coffee in town!",
        ],
        is_json,
    ),
    Form(
        "upper case",
        "write the text in capital letters",
        [
            "mind the gap",
            "the museum is closed on Mondays",
            "please keep off the grass",
            "fresh bread every morning",
            "beware of the dog",
            "no parking at any time",
        ],
        is_upper,
    ),
    Form(
        "one word",
        "answer with one word: what kind of animal, food or thing is this?",
        ["trout", "a violin", "parsley", "the sparrow", "hammer", "limousine"],
        is_one_word,
    ),
    Form(
        "bullet points",
        "turn the comma-separated list into bullet points",
        [
            "tent, sleeping bag, torch",
            "flour, eggs, milk, sugar",
            "passport, tickets, charger",
            "red, green, blue, white",
            "hammer, nails, saw",
            "violin, cello, harp, flute",
        ],
        is_bulleted,
    ),
    Form(
        "formal register",
        "rewrite the command as a polite and formal request",
        [
            "Close the window.",
            "Send me the report by Friday.",
            "Turn off your phone.",
            "Wait outside.",
            "Give me your name.",
            "Stop talking.",
        ],
        is_polite,
    ),
    Form("another language", "translate English to French", list(FRENCH), in_language(FRENCH)),
]


def answers(form: Form, prompt: str, options: argparse.Namespace) -> tuple[str, str]:
    """The answers of the base and of the adapted base."""
    command = [options.binary, "-q", "try", form.description, "--prompt", prompt, "--json"]
    command += ["--base", options.base, "--llama", options.parts / "llama.cpp"]
    command += ["--bundle", options.bundle] if options.bundle else []
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result["base"].strip(), result["adapted"].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, required=True, help="folder that tests/parts.sh fills")
    parser.add_argument("--binary", type=Path, default=RELEASE / "t2lc")
    parser.add_argument("--bundle", type=Path, help="bundle directory [default: the one built in]")
    parser.add_argument("--verbose", action="store_true", help="print every answer")
    options = parser.parse_args()
    options.base = options.parts / "base" / "SmolLM2-135M-Instruct.Q4_1.gguf"

    unmoved = []
    print("| form | description | inputs | base | adapted |\n|---|---|--:|--:|--:|")
    for form in FORMS:
        pairs = [(prompt, *answers(form, prompt, options)) for prompt in form.inputs]
        shares = [sum(form.has(pair[0], pair[i]) for pair in pairs) / len(pairs) for i in (1, 2)]
        base, adapted = (f"{100 * share:.0f} %" for share in shares)
        print(f"| {form.name} | {form.description} | {len(pairs)} | {base} | {adapted} |", flush=True)
        if options.verbose:
            for prompt, plain, changed in pairs:
                print(f"  {prompt!r}: {plain!r} → {changed!r}", file=sys.stderr)
        if shares[1] <= shares[0]:
            unmoved.append(form.name)
    if unmoved:
        sys.exit(f"steering.py: not more often with the adapter: {', '.join(unmoved)}")


if __name__ == "__main__":
    main()
