#!/usr/bin/env bash
# Holds the shared library and its memory to the ledger runtime/size.json: builds it as an app gets
# it (profile mobile, stripped) with each backend, and compiles one description cold.
#
#   tests/size.sh [BACKEND…]   fails where a number is more than the ledger's tolerance above it
#   tests/size.sh --write      records the numbers of all backends for this target
#
# Relocations are packed, as for Android; the library reads tokenizers of the BERT form only.
#
# Compared are the bytes of the library and the anonymous memory (what the process has beside mapped
# files) at the peak of one cold compile. Times are printed only: they depend on the machine.
# Needs a C compiler, python3, and what tests/parts.sh needs.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
bundle=fixtures/smollm2-135m-instruct.t2lc
# One number for every machine: each thread takes memory.
threads=2
runs=3
warm_compiles=25

main() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    local parts
    parts=$(tests/parts.sh)
    export T2LC_ORT_LIBRARY=$parts/onnxruntime/libonnxruntime.so
    local backend
    local -A features=([exact]=capi [tract]=capi,tract [ort]=capi,ort)
    for backend in "${backends[@]}"; do
        measure "$backend" "${features[$backend]}"
    done
    python3 - "$(rustc -vV | sed -n 's/^host: //p')" "$option" "$work" "${backends[@]}" <<'END'
import json, pathlib, sys

triple, option, work, *backends = sys.argv[1:]
path = pathlib.Path("runtime/size.json")
ledger = json.loads(path.read_text())
found, problems = {}, []
for backend in backends:
    goal = ledger["goal_bytes"][backend]
    size = int(pathlib.Path(work, f"{backend}.size").read_text())
    runs = [json.loads(line) for line in pathlib.Path(work, f"{backend}.runs").open()]
    # The peak is sampled, so the largest is the nearest.
    memory = 1024 * max(run["cold_peak_anonymous_kib"] for run in runs)
    cold = sorted(run["cold_ms"] for run in runs)[len(runs) // 2]
    warm = sorted(run["warm_ms"] for run in runs)[len(runs) // 2]
    found[backend] = {"bytes": size, "peak_anonymous_bytes": memory}
    over = [f"{name} over its goal of {most / 1e6:g} MB"
            for name, got, most in [("library", size, goal),
                                    ("memory", memory, ledger["goal_peak_anonymous_bytes"])]
            if got > most]
    print(f"size: {backend}: {size / 1e6:.2f} MB, peak of anonymous memory {memory / 1e6:.1f} MB, "
          f"cold {cold:.0f} ms, warm {warm:.0f} ms"
          + (" (" + ", ".join(over) + ")" if over else ""))
    recorded = ledger["entries"].get(triple, {}).get(backend)
    if recorded is None:
        problems.append(f"{backend} has no entry for {triple}")
        continue
    for name, got in found[backend].items():
        most = recorded[name] * (1 + ledger["tolerance"][name])
        if got > most:
            problems.append(f"{backend}: {name} is {got}, recorded is {recorded[name]}")

if option == "--write":
    ledger["entries"][triple] = found
    path.write_text(json.dumps(ledger, indent=2) + "\n")
    print(f"size: recorded for {triple}")
elif problems:
    print("tests/size.sh: " + "; ".join(problems)
          + "; if that is meant, record it: tests/size.sh --write", file=sys.stderr)
    sys.exit(1)
END
}

# measure BACKEND FEATURES: the library's size and what compiling takes, into the work folder.
measure() {
    local library=$work/$1/libt2lc_runtime.so run
    cargo rustc --quiet --package t2lc-runtime --profile mobile --no-default-features \
        --features "$2" --crate-type cdylib -- -C link-arg=-Wl,-z,pack-relative-relocs
    mkdir "$work/$1"
    # The next build takes its place.
    cp "$target/mobile/libt2lc_runtime.so" "$library"
    stat -c %s "$library" >"$work/$1.size"
    cc -std=c11 -O2 -Wall -Wextra -Werror -Iruntime/include runtime/examples/soak.c "$library" \
        -Wl,-rpath,"$work/$1" -pthread -lm -o "$work/$1/soak"
    for ((run = 0; run < runs; run++)); do
        "$work/$1/soak" "$bundle" time "$warm_compiles" "$1" "$threads"
    done >"$work/$1.runs"
}

option= backends=(exact tract ort)
if [[ ${1:-} == --write ]]; then
    option=--write
elif [[ $# -gt 0 ]]; then
    backends=("$@")
fi
main
