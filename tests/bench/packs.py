#!/usr/bin/env python3
"""Times `t2lc pack compile` on packs of many sizes, beside one process per description.

    cargo build --release && python3 tests/bench/packs.py

Every pack has generated descriptions, each another one, and goes into an empty store. Beside it run
single `t2lc compile` processes on some of the same descriptions, one after the other and as many at
once as the pack has workers; both compute with the backend `exact`. Prints a Markdown table: wall
time, adapters per second, CPU time per adapter, and the peak resident memory of the largest process
(below about 20 MiB it is this script's own: a child starts as its copy).

With `--criterion target/criterion`, where `cargo bench --features ort --bench backends` leaves its
estimates, a line says what the two graphs alone take on one thread.

A store holds about 3.8 MB per adapter, so 10,000 of them need 38 GB in the folder for temporary
files, or in `--work`; each is removed before the next pack. Linux and macOS only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`

ACTIONS = [
    "Summarize", "Shorten", "Rewrite", "Translate into French", "Translate into German",
    "Proofread", "Classify the mood of", "List the names in", "Extract the date from",
    "Extract the amount of money from", "Write a headline for", "Name the topic of",
    "Simplify", "Turn into JSON", "Turn into bullet points", "Find the question in",
    "Copy the first sentence of", "Count the words of", "Anonymize", "Answer politely to",
]
TEXTS = [
    "a contract clause", "a support ticket", "a product review", "a news article", "an email",
    "a meeting note", "a recipe", "an invoice", "a job advert", "a travel report",
    "a privacy policy", "a chat message", "a user manual", "a lab report", "a film review",
    "a weather forecast", "a school essay", "a press release", "a bug report", "a complaint",
]
READERS = [
    "a lawyer", "a child", "a customer", "a nurse", "an engineer", "a teacher", "a tourist",
    "a manager", "a student", "a journalist", "a farmer", "a cook", "a pilot", "a librarian",
    "a musician", "a driver", "a gardener", "a programmer", "a scientist", "a translator",
    "an accountant", "a baker", "a carpenter", "a dentist", "an architect",
]
LARGEST = len(ACTIONS) * len(TEXTS) * len(READERS)


class Cost(NamedTuple):
    """What a process cost."""

    wall_s: float
    cpu_s: float
    peak_rss_mib: float


def description(index: int) -> str:
    """The description of an index below LARGEST; neighbours differ in the action."""
    index, action = divmod(index, len(ACTIONS))
    reader, text = divmod(index, len(TEXTS))
    return f"{ACTIONS[action]} {TEXTS[text]} for {READERS[reader]}"


def process(command: list[str], output: Path) -> Cost:
    """Runs a command to its end, its stdout in a file."""
    with output.open("wb") as stdout:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=stdout)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)  # Popen need not wait any more
    if child.returncode != 0:
        sys.exit(f"packs.py: `{' '.join(command)}` failed with status {child.returncode}")
    peak_rss_mib = usage.ru_maxrss * RSS_UNIT_BYTES / 2**20
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak_rss_mib)


def compile_pack(binary: str, count: int, jobs: int, work: Path) -> Cost:
    """Compiles a pack into an empty store, which is removed afterwards."""
    tables = [
        f'[[adapter]]\nname = "n{index}"\ndescription = "{description(index)}"\n'
        for index in range(count)
    ]
    pack, store, report = work / "pack.toml", work / "store", work / "report.json"
    pack.write_text("schema = 1\n" + "\n".join(tables), encoding="utf-8")
    command = [binary, "pack", "compile", "--file", str(pack), "--store", str(store)]
    cost = process([*command, "--jobs", str(jobs), "--backend", "exact", "--json", "-q"], report)
    compiled = json.loads(report.read_bytes())["counts"]["compiled"]
    if compiled != count:
        sys.exit(f"packs.py: {compiled} adapters were compiled, expected {count}")
    shutil.rmtree(store)
    return cost


def compile_singly(binary: str, count: int, at_once: int, work: Path) -> Cost:
    """Compiles descriptions in a process each; gives the cost of all and the largest peak."""

    def one(index: int) -> Cost:
        # Some of all actions, texts and readers: the factor shares none with LARGEST.
        text, out = description(index * 7919 % LARGEST), work / f"single-{index}.gguf"
        command = [binary, "compile", text, "-o", str(out), "--backend", "exact", "-q"]
        cost = process(command, work / f"single-{index}.txt")
        out.unlink()
        return cost

    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        costs = list(pool.map(one, range(count)))
    wall_s = time.perf_counter() - start
    cpu_s = sum(cost.cpu_s for cost in costs)
    return Cost(wall_s, cpu_s, max(cost.peak_rss_mib for cost in costs))


def graphs_alone_ms(folder: Path) -> dict[str, float]:
    """Criterion's medians for `exact`: an encode and a generate, by length of the description."""
    medians: dict[str, float] = {}
    for about in folder.glob("**/new/benchmark.json"):
        name = json.loads(about.read_bytes()).get("full_id", "")
        estimates = json.loads(about.with_name("estimates.json").read_bytes())
        medians[name] = estimates["median"]["point_estimate"] / 1e6
    generate = medians.get("stages/generate/exact")
    if generate is None:
        return {}
    names = {length: f"stages/encode {length}/exact" for length in ("short", "long")}
    return {length: medians[name] + generate for length, name in names.items() if name in medians}


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Times `t2lc pack compile`.")
    binary, cores = TARGET / "release/t2lc", os.cpu_count() or 1
    parser.add_argument("--binary", type=Path, default=binary, help="release build")
    parser.add_argument("--counts", default="100,1000,10000", help="sizes of the packs")
    parser.add_argument("--singles", type=int, default=20, help="processes to compare with")
    parser.add_argument("--jobs", type=int, default=cores, help="workers (default: cores)")
    parser.add_argument("--criterion", type=Path, help="folder with criterion's estimates")
    parser.add_argument("--work", type=Path, help="folder for the stores")
    args = parser.parse_args()
    args.counts = [int(count) for count in args.counts.split(",")]
    if not all(1 <= count <= LARGEST for count in args.counts):
        parser.error(f"a pack has 1 to {LARGEST} adapters")
    if not 1 <= args.singles <= LARGEST or not args.binary.is_file():
        parser.error(f"needs at least one single process, and a binary at {args.binary}")
    return args


def main() -> None:
    """Measures and prints."""
    args = arguments()
    binary, jobs = str(args.binary.resolve()), args.jobs
    print("| | adapters | wall, s | adapters/s | CPU ms per adapter | peak memory, MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")

    def row(name: str, count: int, cost: Cost) -> float:
        rate, cpu_ms = count / cost.wall_s, 1e3 * cost.cpu_s / count
        numbers = f"{count} | {cost.wall_s:.2f} | {rate:.1f} | {cpu_ms:.1f}"
        print(f"| {name} | {numbers} | {cost.peak_rss_mib:.0f} |", flush=True)
        return rate

    with tempfile.TemporaryDirectory(prefix="t2lc-bench-", dir=args.work) as work:
        singles = []
        for at_once in sorted({1, jobs}):
            cost = compile_singly(binary, args.singles, at_once, Path(work))
            singles.append(row(f"a process each, {at_once} at once", args.singles, cost))
        packs = []
        for count in args.counts:
            cost = compile_pack(binary, count, jobs, Path(work))
            packs.append(row(f"a pack, {jobs} workers", count, cost))
    print(f"\nThe last pack is {packs[-1] / max(singles):.1f} times as fast as a process each.")
    if args.criterion:
        alone = graphs_alone_ms(args.criterion)
        texts = [f"{ms:.1f} ms for a {length} description" for length, ms in alone.items()]
        print(f"The graphs alone, one thread: {', '.join(texts) or 'no estimates'}.")


if __name__ == "__main__":
    main()
