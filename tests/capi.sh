#!/usr/bin/env bash
# Shows that the C interface of the runtime (runtime/include/t2lc.h) holds: builds the library as an
# app gets it, then runs misuse, threads and reopening natively, under valgrind and with sanitizers,
# an app that uses an adapter in llama.cpp within one process, and the wrappers for other languages.
#
#   tests/capi.sh
#
# Linux on x86-64. Needs a C compiler, what tests/parts.sh needs, and what the tests of the wrappers
# need; installs valgrind through apt-get and cbindgen through cargo where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
bundle=fixtures/smollm2-135m-instruct.t2lc
library=$target/mobile/libt2lc_runtime.a
# A description of a trained task, and what the adapter makes of an input.
description="Give the antonym of the word."
input=hot
answer=cold
# A reopening digests 53 MB, so 10000 of them take minutes. In 500, a leak of 10 bytes each is found.
reopens=${T2LC_REOPENS:-500}
cbindgen_version=0.29.2
warnings=(-std=c11 -Wall -Wextra -Werror -Iruntime/include)
# What Rust's standard library needs of the system.
link=(-pthread -ldl -lm -lgcc_s)

main() {
    require
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cargo rustc --quiet --package t2lc-runtime --profile mobile --no-default-features \
        --features capi --crate-type staticlib,cdylib
    compile soak "$work/soak" -O2 -g
    compile embed "$work/embed" -O2
    compile soak "$work/soak-sanitized" -O1 -g -fno-omit-frame-pointer \
        -fsanitize=address,undefined -fno-sanitize-recover=all

    run "native" "$work/soak" "$bundle" errors
    run "native" "$work/soak" "$bundle" threads 8 1000
    GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0 \
        run "native" "$work/soak" "$bundle" reopen "$reopens"
    # Slow: the compiler is tried after each 25th refused call only.
    run "valgrind" valgrind "$work/soak" "$bundle" errors 25
    run "valgrind" valgrind "$work/soak" "$bundle" threads 2 2
    run "valgrind" valgrind "$work/soak" "$bundle" reopen 3
    run "sanitizers" "$work/soak-sanitized" "$bundle" errors
    run "sanitizers" "$work/soak-sanitized" "$bundle" threads 8 20
    embed
    header
    run "kotlin" runtime/kotlin/test.sh "$library" "$bundle"
    run "python" runtime/python/test.sh "$bundle"
    # tests/size.sh alone compares tract and ONNX Runtime as well; each build of them takes minutes.
    tests/size.sh exact
}

# compile EXAMPLE OUTPUT FLAG...
compile() {
    cc "${warnings[@]}" "${@:3}" "runtime/examples/$1.c" "$library" "${link[@]}" -o "$2"
}

# run NAME COMMAND...: its last line, or all it said if it fails.
run() {
    local name=$1 started=$SECONDS
    shift
    if ! "$@" >"$work/out" 2>"$work/err"; then
        cat "$work/out" "$work/err" >&2
        fail "$name: $* failed"
    fi
    echo "$name: $(tail -n 1 "$work/out") ($((SECONDS - started)) s)"
}

# Invalid reads and writes, and memory that nothing points to any more, are errors.
valgrind() {
    command valgrind --quiet --fair-sched=yes --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --error-exitcode=1 "$@"
}

# The answers of the base model without the adapter and with it.
embed() {
    local parts base adapted
    parts=$(tests/parts.sh)
    "$work/embed" "$bundle" "$parts/base/SmolLM2-135M-Instruct.Q4_1.gguf" "$parts/llama.cpp" \
        "$description" "$input" >"$work/answers"
    base=$(sed -n 's/^base: //p' "$work/answers")
    adapted=$(sed -n 's/^adapted: //p' "$work/answers")
    [[ -n $base && $base != "$adapted" ]] || fail "the adapter changes nothing: $base"
    [[ $adapted == "$answer" ]] || fail "llama.cpp answers \"$adapted\", not \"$answer\""
    echo "embed: llama.cpp answers \"$input\" with \"$adapted\", without the adapter \"${base:0:40}…\""
}

# The header is what cbindgen makes of the source.
header() {
    "$cbindgen" --quiet --config runtime/cbindgen.toml --crate t2lc-runtime \
        --output "$work/t2lc.h" runtime 2>"$work/err" || fail "cbindgen: $(<"$work/err")"
    diff runtime/include/t2lc.h "$work/t2lc.h" >&2 ||
        fail "runtime/include/t2lc.h is not what cbindgen makes of the source"
    echo "header: $(grep -c '^t2lc_status t2lc_' runtime/include/t2lc.h) functions that can fail, as in the source"
}

require() {
    [[ $(uname -sm) == "Linux x86_64" ]] || fail "this runs on Linux on x86-64"
    if ! type -P valgrind >/dev/null; then
        apt-get update -qq
        apt-get install -y -qq valgrind >/dev/null
    fi
    local tools=${XDG_CACHE_HOME:-${HOME:?}/.cache}/t2lc/cbindgen-$cbindgen_version
    cbindgen=$tools/bin/cbindgen
    if [[ ! -x $cbindgen ]]; then
        # Its own target folder: the project's would be rebuilt. It runs once, for a second.
        CARGO_TARGET_DIR=$tools/target cargo install --quiet --locked --debug --root "$tools" \
            --version "=$cbindgen_version" cbindgen
        rm -rf "$tools/target"
    fi
}

fail() {
    echo "tests/capi.sh: $1" >&2
    exit 1
}

main
