#!/usr/bin/env python3
"""Times `t2lc compile` as a user meets it: whole processes, from start to the file on disk.

    cargo build --release && python3 tests/bench.py

Every run is a new process; only the system's file cache carries over. Prints wall time in ms, peak
resident memory in MiB and the adapter's size in bytes; fails if the runs write different bytes.

The path that t2lc replaces is timed the same way if its options are given: `TORCH_SCRIPT
DESCRIPTION FOLDER` writes a PEFT adapter, llama.cpp's `convert_lora_to_gguf.py` a GGUF file of it.
Its time is the sum of both processes, its memory the larger of the two. Linux and macOS only. A
peak below about 20 MiB is this script's own: a child starts out as its copy.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

DESCRIPTION = "summarize legal text"
RELEASE = Path(__file__).parent.parent / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`


class Run(NamedTuple):
    """One way from the description to the adapter: what it cost and what came out."""

    wall_ms: float
    peak_rss_mib: float
    size_bytes: int
    sha256: str


def process(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Runs a command to its end; returns its wall time in ms and its peak memory in MiB."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        wall_ms = (time.perf_counter() - start) * 1e3
        child.returncode = os.waitstatus_to_exitcode(status)  # Popen need not wait any more
        if child.returncode != 0:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace"))
            sys.exit(f"bench.py: `{command[0]}` failed with status {child.returncode}")
    return wall_ms, usage.ru_maxrss * RSS_UNIT_BYTES / 2**20


def measure(commands: list[list[str]], out: Path, env: dict[str, str], runs: int) -> list[Run]:
    """Runs the commands one after the other, `runs` times; they leave the adapter in `out`."""
    results: list[Run] = []
    for _ in range(runs):
        costs = [process(command, env) for command in commands]
        walls, peaks = zip(*costs)
        adapter = out.read_bytes()  # not kept: memory held here counts as the children's
        digest = hashlib.sha256(adapter).hexdigest()
        results.append(Run(sum(walls), max(peaks), len(adapter), digest))
        out.unlink()  # the next run must write its own
    return results


def report(name: str, runs: list[Run]) -> float:
    """Prints the costs of one way; returns its median wall time in ms."""
    walls = sorted(run.wall_ms for run in runs)
    median_ms = statistics.median(walls)
    print(f"{name}, {len(runs)} runs")
    print(f"  wall ms   min {walls[0]:.1f}, median {median_ms:.1f}, max {walls[-1]:.1f}")
    print(f"  peak RSS  {max(run.peak_rss_mib for run in runs):.1f} MiB")
    print(f"  adapter   {runs[-1].size_bytes} bytes")
    return median_ms


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Times `t2lc compile` in cold processes.")
    parser.add_argument("--binary", type=Path, default=RELEASE / "t2lc", help="release build")
    parser.add_argument("--runs", type=int, default=15, help="cold processes (default: 15)")
    parser.add_argument("--python-path", type=Path, help="packages: torch, transformers, gguf")
    parser.add_argument("--torch-script", type=Path, help="writes the PEFT adapter")
    parser.add_argument("--convert-script", type=Path, help="llama.cpp's convert_lora_to_gguf.py")
    parser.add_argument("--base-config", type=Path, help="folder of the base's config.json")
    args = parser.parse_args()
    if args.runs < 1 or not args.binary.is_file():
        parser.error(f"needs at least one run, and a binary at {args.binary}")
    return args


def main() -> int:
    """Measures and prints; returns the exit status."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="t2lc-bench-") as work:
        out = Path(work, "legal.gguf")
        command = [str(args.binary.resolve()), "compile", DESCRIPTION, "-o", str(out), "--force"]
        runs = measure([command], out, dict(os.environ), args.runs)
        median_ms = report("t2lc compile", runs)
        identical = len({run.sha256 for run in runs}) == 1
        print(f"  bytes     {'identical in all runs' if identical else 'DIFFER between runs'}")
        if not (args.python_path and args.torch_script and args.convert_script):
            print("Python path skipped: needs --python-path, --torch-script, --convert-script")
        else:
            peft, gguf = Path(work, "peft"), Path(work, "reference.gguf")
            generate = [sys.executable, str(args.torch_script), DESCRIPTION, str(peft)]
            convert = [sys.executable, str(args.convert_script), str(peft), "--outfile", str(gguf)]
            convert += ["--base", str(args.base_config)] if args.base_config else []
            env = os.environ | {"PYTHONPATH": str(args.python_path), "HF_HUB_OFFLINE": "1"}
            peft.mkdir()
            reference = measure([generate, convert], gguf, env, args.runs)
            reference_ms = report("reference Python path", reference)
            print(f"ratio of the medians: t2lc is {reference_ms / median_ms:.1f} times as fast")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
