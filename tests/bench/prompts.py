#!/usr/bin/env python3
"""What a description costs in every prompt, beside an adapter that was compiled from it.

    cargo build --release
    python3 tests/bench/prompts.py --parts "$(tests/parts.sh)"

Some held-out tasks of the task pack, some examples each, in a real llama-server with one slot: every
input goes in alone to the base, alone under the adapter compiled from the task's first description
that training does not see, and with that description before it to the base. These three take turns,
once with nothing cached and once with what the slot keeps of the task's request of the same kind
before, which is how a server meets a run of requests of one task. Prints a Markdown table of medians:
tokens of a prompt, those that were computed, ms until they were, and ms per token of the answer.
Needs Python 3.10 or newer on 64 bits and the part `llama-server`.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
PACK = ROOT / "fixtures/taskpack"
ANSWER_TOKENS = 8

# The system's proxies do not lead to this process.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Task(NamedTuple):
    """A description, the file of the adapter compiled from it, and inputs."""

    description: str
    adapter: Path
    inputs: list[str]


class Way(NamedTuple):
    """One way to ask."""

    name: str
    described: bool
    adapted: bool


WAYS = [
    Way("input alone", described=False, adapted=False),
    Way("compiled: input alone, adapter", described=False, adapted=True),
    Way("prompted: description and input", described=True, adapted=False),
]


def tasks_of(options: argparse.Namespace, folder: Path) -> list[Task]:
    """Every n-th held-out task, with its adapter compiled into the folder."""
    with open(PACK / "tasks.json", encoding="utf-8") as file:
        held_out = [task for task in json.load(file)["tasks"] if task["split"] == "heldout"]
    step = max(1, len(held_out) // options.tasks)
    tasks = []
    for task in held_out[::step][: options.tasks]:
        description = task["descriptions"][task["eval_description_ids"][0]]
        adapter = folder / f"{task['id']}.gguf"
        command = [options.t2lc, "compile", description, "-o", adapter, "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(PACK / task["file"], encoding="utf-8") as file:
            examples = [example for example in map(json.loads, file) if example["split"] == "test"]
        inputs = [example["input"] for example in examples[: options.examples]]
        tasks.append(Task(description, adapter, inputs))
    return tasks


def serve(options: argparse.Namespace, tasks: list[Task]) -> object:
    """A server with every adapter, all at scale 0, in this process."""
    sys.path.insert(0, str(options.parts / "llama-server"))
    module = importlib.import_module("xllamacpp")
    params = module.CommonParams()
    params.model.path = str(options.parts / "base/SmolLM2-135M-Instruct.Q4_1.gguf")
    params.port = 0
    params.n_parallel, params.n_ctx = 1, 1024
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    adapter = module.CommonAdapterLoraInfo
    params.lora_adapters = [adapter(str(task.adapter), 0.0) for task in tasks]
    return module.Server(params)


def ask(server: object, way: Way, number: int, task: Task, text: str, cached: bool) -> dict:
    """The server's timings of one request."""
    content = f"{task.description}\n\n{text}" if way.described else text
    body = {
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
        "cache_prompt": cached,
        "lora": [{"id": number, "scale": 1.0}] if way.adapted else [],
    }
    request = urllib.request.Request(
        server.listening_address + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with OPENER.open(request, timeout=300) as response:
        return json.load(response)["timings"]


def measure(server: object, tasks: list[Task], cached: bool) -> dict[str, list[dict]]:
    """Timings of all ways. Cached ones run one way after the other, as the slot keeps one prompt."""
    found: dict[str, list[dict]] = {way.name: [] for way in WAYS}
    for number, task in enumerate(tasks):
        if not cached:
            for text in task.inputs:
                for way in WAYS:
                    found[way.name].append(ask(server, way, number, task, text, cached))
            continue
        for way in WAYS:
            first, *rest = task.inputs
            ask(server, way, number, task, first, cached)
            found[way.name] += [ask(server, way, number, task, text, cached) for text in rest]
    return found


def row(name: str, timings: list[dict]) -> str:
    def median(value) -> float:
        return statistics.median(map(value, timings))

    total = median(lambda t: t["prompt_n"] + t.get("cache_n", 0))
    computed, prompt_ms = median(lambda t: t["prompt_n"]), median(lambda t: t["prompt_ms"])
    token_ms = median(lambda t: t["predicted_ms"] / t["predicted_n"])
    return f"| {name} | {total:.0f} | {computed:.0f} | {prompt_ms:.1f} | {token_ms:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, required=True, help="what tests/parts.sh prints")
    parser.add_argument("--t2lc", type=Path, default=TARGET / "release/t2lc")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="t2lc-prompts-") as folder:
        tasks = tasks_of(options, Path(folder))
        server = serve(options, tasks)
        measure(server, tasks[:1], cached=False)  # to warm up
        print("| | tokens | computed | prompt, ms | answer, ms per token |")
        print("|---|--:|--:|--:|--:|")
        for cached in [False, True]:
            for name, timings in measure(server, tasks, cached).items():
                print(row(f"{name}{', cached' if cached else ''}", timings), flush=True)


if __name__ == "__main__":
    main()
