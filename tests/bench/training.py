#!/usr/bin/env python3
"""Compares training speed with PyTorch: the same steps on the same batches, in turn.

    python3 tests/bench/training.py --python VENV/bin/python

Runs the bench target `training` and `torch_training.py` alternately, a new process each time, so
that a busy machine hits both. Prints a Markdown table of the median tokens per second and the
largest peak memory, with ratios. Both sides count the same tokens and start at the base model;
fails if they counted differently or if the losses of the first step are apart, because then they
did not compute the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOSS_TOLERANCE = 0.01  # relative, of the first step

Result = dict[str, float]  # the line of JSON, whose name is a string


def run(command: list[str]) -> Result:
    """Runs one side; returns its line of JSON, the last on stdout."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"training.py: `{' '.join(command)}` failed with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def table(ours: list[Result], theirs: list[Result]) -> str:
    """The comparison as Markdown."""

    def speed(runs: list[Result]) -> float:
        return statistics.median(run["tokens_per_s"] for run in runs)

    def step(runs: list[Result]) -> float:
        return statistics.median(run["s_per_step"] for run in runs)

    def peak(runs: list[Result]) -> float:
        return max(run["peak_mib"] for run in runs)

    lines = ["| | tokens/s | s/step | peak memory, MiB |", "| --- | ---: | ---: | ---: |"]
    for runs in (ours, theirs):
        numbers = f"{speed(runs):.0f} | {step(runs):.2f} | {peak(runs):.0f}"
        lines.append(f"| {runs[0]['name']} | {numbers} |")
    ratios = (speed(ours) / speed(theirs), step(ours) / step(theirs), peak(ours) / peak(theirs))
    lines.append(f"| ratio | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


def difference(ours: Result, theirs: Result) -> str | None:
    """Says what shows that the two sides did not compute the same."""
    if ours["tokens"] != theirs["tokens"]:
        return f"{ours['tokens']} tokens here, {theirs['tokens']} there"
    here, there = ours["first_loss"], theirs["first_loss"]
    if abs(here - there) > LOSS_TOLERANCE * there:
        return f"the first step's loss is {here:.4f} here, {there:.4f} there"
    return None


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parts = os.environ.get("T2LC_PARTS") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "t2lc", "parts"
    )
    base = Path(parts, "base", "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser = argparse.ArgumentParser(description="Compares training speed with PyTorch.")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="an interpreter with the packages torch, transformers, accelerate and gguf",
    )
    parser.add_argument("--base", type=Path, default=base, help="GGUF file of the base")
    parser.add_argument("--pack", type=Path, default=ROOT / "fixtures" / "taskpack")
    parser.add_argument("--features", default="train", help="of the build, for example train,ort")
    parser.add_argument("--runs", type=int, default=3, help="processes of each side (default: 3)")
    parser.add_argument("--steps", type=int, default=10, help="of a process (default: 10)")
    args = parser.parse_args()
    if args.runs < 1 or args.steps < 1 or not args.base.is_file():
        parser.error(f"needs at least one run and one step, and a base at {args.base}")
    return args


def main() -> int:
    """Measures and prints; returns the exit status."""
    args = arguments()
    inputs = ["--base", str(args.base.resolve()), "--pack", str(args.pack.resolve())]
    inputs += ["--steps", str(args.steps)]
    bench = ["cargo", "bench", "--quiet", "--features", args.features, "--bench"]
    bench.append("training")
    subprocess.run([*bench, "--no-run"], cwd=ROOT, check=True)
    torch = [args.python, str(HERE / "torch_training.py"), *inputs]
    ours: list[Result] = []
    theirs: list[Result] = []
    for number in range(1, args.runs + 1):
        print(f"run {number} of {args.runs}", file=sys.stderr)
        ours.append(run([*bench, "--", *inputs]))
        theirs.append(run(torch))
    tokens, count = ours[0]["tokens"], f"{args.runs} run{'s' if args.runs > 1 else ''}"
    print(f"{count} of {args.steps} steps, {tokens} tokens each, on {os.cpu_count()} CPUs\n")
    print(table(ours, theirs))
    apart = difference(ours[0], theirs[0])
    if apart:
        print(f"training.py: {apart}", file=sys.stderr)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
