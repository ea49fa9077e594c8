#!/usr/bin/env bash
# Type-checks the CUDA build on a machine that need not have a GPU or CUDA: fetches NVIDIA's
# compiler with its headers, pinned and checked, into
# ${T2LC_PARTS:-${XDG_CACHE_HOME:-$HOME/.cache}/t2lc/parts}/cuda, and runs `cargo check` with it.
# The build scripts of the dependencies compile every CUDA kernel on the way; nothing is linked or
# run, so the libraries of a full build (cuBLAS, cuRAND, NVRTC, the driver) are not needed.
#
# The part is about 270 MB and lies as CUDA_HOME does: bin, include, lib (also as lib64), nvvm. As
# with tests/parts.sh, its SHA256SUMS names the pins in the first line, and a part that still
# matches is left alone. The packages are under NVIDIA's own licence. Needs Linux on x86-64, python3
# with pip, and a C++ compiler that CUDA 13.0 accepts (GCC up to 15).
#
# CUDA_COMPUTE_CAP is what the kernels are compiled for, by default 80; arguments go to cargo.
set -euo pipefail
cd "$(dirname "$0")/.."

pins=(
    nvidia-cuda-nvcc==13.0.88:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
    nvidia-cuda-crt==13.0.88:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
    nvidia-nvvm==13.0.88:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
    nvidia-cuda-runtime==13.0.96:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
    nvidia-cuda-cccl==13.0.85:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
)

main() {
    if ! complete; then
        require
        echo "fetching cuda" >&2
        partial=$parts/.partial-cuda.$$
        mkdir -p "$partial/unpacked"
        local pin
        for pin in "${pins[@]}"; do
            fetch "${pin%:*}" "${pin##*:}"
        done
        assemble "$partial/unpacked/nvidia/cu13"
        # A part that was there is damaged or of other pins.
        rm -rf "${parts:?}/cuda"
        mv -T "$partial/unpacked/nvidia/cu13" "$parts/cuda"
        rm -rf "$partial"
        partial=
    fi
    echo "$parts/cuda: $(du -sh --apparent-size "$parts/cuda" | cut -f1)" >&2

    export CUDA_HOME=$parts/cuda CUDA_PATH=$parts/cuda NVCC=$parts/cuda/bin/nvcc
    export PATH=$parts/cuda/bin:$PATH
    export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
    cargo check --release --features cuda "$@"
}

# Is the part there, from these pins, with every file as it was?
complete() {
    local sums=$parts/cuda/SHA256SUMS
    [[ -f $sums && $(head -n 1 "$sums") == "# ${pins[*]}" ]] || return 1
    (cd "$parts/cuda" && tail -n +2 SHA256SUMS | sha256sum --check --quiet --strict) >&2
}

# fetch REQUIREMENT SHA256, into $partial/unpacked
fetch() {
    local archive
    rm -rf "$partial/archive" && mkdir "$partial/archive"
    # One interpreter and platform for everybody, so that every host gets the same wheel.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --implementation cp --python-version 3.11 --platform manylinux2014_x86_64 \
        --platform manylinux2010_x86_64 --dest "$partial/archive" "$1" >&2
    archive=$(echo "$partial/archive"/*.whl)
    sha256sum --check --quiet --strict <<<"$2  $archive" >&2 || fail "$archive is not what was pinned"
    python3 -m zipfile -e "$archive" "$partial/unpacked"
}

# Makes a CUDA_HOME of the folder $1 that all packages were unpacked into.
assemble() (
    cd "$1"
    # Unpacking dropped the modes.
    find bin nvvm/bin -maxdepth 1 -type f ! -name nvcc.profile -exec chmod +x {} +
    ln -s lib lib64
    { echo "# ${pins[*]}"; find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum; } >SHA256SUMS
)

require() {
    [[ $(uname -sm) == "Linux x86_64" ]] || fail "the compiler is built for Linux on x86-64"
    command -v python3 >/dev/null || fail "python3 is missing"
    python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: python3 -m pip does not run"
}

fail() {
    echo "tests/cuda.sh: $1" >&2
    exit 1
}

parts=${T2LC_PARTS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/t2lc/parts}
mkdir -p "$parts"
parts=$(cd "$parts" && pwd) # absolute, for the compiler's own paths
partial=
trap '[[ -z $partial ]] || rm -rf "$partial"' EXIT

main "$@"
