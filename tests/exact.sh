#!/usr/bin/env bash
# Proves that `exact` gives the same bytes whatever runs it: compiles the descriptions in
# fixtures/golden/exact with the default bundle, in three quantizations each, and compares the
# digests with the recorded ones. The builds differ in optimization and target, the runs in threads
# and in the vector instructions of the CPU; qemu stands in for CPUs that are not there.
#
#   tests/exact.sh           compares
#   tests/exact.sh --write   records the digests of the release build, then compares the others
#
# x86-64 Linux; needs qemu-user and cross linkers (installed through apt-get where they are
# missing) and rustup.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
golden=fixtures/golden/exact
bundle=fixtures/smollm2-135m-instruct.t2lc
# Rust target, emulator, folder of its C library, what it differs in.
targets=(
    "aarch64-unknown-linux-gnu qemu-aarch64 /usr/aarch64-linux-gnu NEON"
    "i686-unknown-linux-gnu qemu-i386 /usr/i686-linux-gnu 32-bit"
    "s390x-unknown-linux-gnu qemu-s390x /usr/s390x-linux-gnu big-endian"
)
failed=0

main() {
    require
    local digests=examples/digests
    build release
    if [[ ${1:-} == --write ]]; then
        digests "$target/release/$digests" 1 >"$golden/digests.txt"
    fi
    run "release, 1 thread" "$target/release/$digests" 1
    run "release, 2 threads" "$target/release/$digests" 2
    run "release, 8 threads" "$target/release/$digests" 8
    run "release, qemu, no AVX" "qemu-x86_64 -cpu Westmere $target/release/$digests" 1
    run "release, qemu, AVX2" "qemu-x86_64 -cpu max $target/release/$digests" 2
    build small
    run "opt-level s" "$target/small/$digests" 2
    build dev
    run "debug" "$target/debug/$digests" 2
    local row
    for row in "${targets[@]}"; do
        read -r triple emulator root what <<<"$row"
        build release "$triple"
        run "$triple ($what), qemu" "$emulator -L $root $target/$triple/release/$digests" 2
    done
    echo "runs without qemu could use $(vectors)"
    exit "$failed"
}

# build PROFILE [TARGET], without what reads tokenizers of other forms than the default bundle's
build() {
    local cross=()
    if [[ -n ${2:-} ]]; then
        local variable=CARGO_TARGET_${2//-/_}_LINKER
        export "${variable^^}=${2/-unknown/}-gcc"
        cross=(--target "$2")
    fi
    cargo build --quiet --package t2lc-runtime --no-default-features --example digests \
        --profile "$1" "${cross[@]}"
}

# digests COMMAND THREADS; the command may have arguments.
digests() {
    # shellcheck disable=SC2086
    $1 "$bundle" "$golden/descriptions.txt" "$2"
}

# run NAME COMMAND THREADS
run() {
    local started=$SECONDS
    if digests "$2" "$3" | diff "$golden/digests.txt" - >&2; then
        echo "same: $1 ($((SECONDS - started)) s)"
    else
        echo "DIFFERENT: $1"
        failed=1
    fi
}

# Emulators, C compilers for linking and Rust's standard library of every target.
require() {
    local packages=() triple
    command -v qemu-x86_64 >/dev/null || packages+=(qemu-user)
    for triple in aarch64 i686 s390x; do
        command -v "$triple-linux-gnu-gcc" >/dev/null || packages+=("gcc-$triple-linux-gnu")
    done
    if ((${#packages[@]})); then
        apt-get update -qq
        apt-get install -y -qq "${packages[@]}" libc6-dev-{arm64,i386,s390x}-cross >/dev/null
    fi
    for row in "${targets[@]}"; do
        rustup --quiet target add "${row%% *}"
    done
}

# The widest vector instructions that the runs without qemu could use.
vectors() {
    if grep -qw avx512f /proc/cpuinfo; then
        echo AVX-512
    elif grep -qw avx2 /proc/cpuinfo; then
        echo AVX2
    else
        echo "no AVX2"
    fi
}

main "$@"
