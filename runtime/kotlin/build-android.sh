#!/usr/bin/env bash
# Builds libt2lc_runtime.a, the static library of t2lc-runtime, for the four ABIs of Android:
#
#     build-android.sh [OUTPUT]
#
# OUTPUT is the folder that ABI/libt2lc_runtime.a go to, by default build/t2lc beside this script.
# FEATURES are features of t2lc-runtime besides capi, for example tract. Needs ANDROID_NDK_HOME, the
# folder of an NDK of version 27 or newer, and cargo with the four targets. Gradle calls it.
set -euo pipefail

# That of build.gradle.kts.
api=24

case $(uname -s) in
Linux) host=linux-x86_64 ;;
Darwin) host=darwin-x86_64 ;; # both kinds of Mac
*)
    echo "build-android.sh: this is for Linux and macOS, not $(uname -s)" >&2
    exit 1
    ;;
esac
tools=${ANDROID_NDK_HOME:?the folder of an Android NDK}/toolchains/llvm/prebuilt/$host/bin
if [[ ! -x $tools/llvm-ar ]]; then
    echo "build-android.sh: ANDROID_NDK_HOME holds no NDK: there is no $tools/llvm-ar" >&2
    exit 1
fi

here=$(cd "$(dirname "$0")" && pwd)
output=${1:-$here/build/t2lc}
mkdir -p "$output"
output=$(cd "$output" && pwd)
cd "$here/../.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

# build ABI TARGET [CLANG], where the NDK's compiler is not named as Rust's target.
build() {
    local abi=$1 target=$2 clang=$tools/${3:-$2}$api-clang
    local variable=${target//-/_} upper
    # Not ${variable^^}: macOS has bash 3.
    upper=$(tr '[:lower:]' '[:upper:]' <<<"$variable")
    mkdir -p "$output/$abi"
    # The linker for what cargo links, the others for dependencies with C or assembly.
    env "CARGO_TARGET_${upper}_LINKER=$clang" "CC_$variable=$clang" \
        "CXX_$variable=$clang++" "AR_$variable=$tools/llvm-ar" \
        cargo rustc -p t2lc-runtime --locked --profile mobile --no-default-features \
        --features "capi ${FEATURES:-}" --crate-type staticlib --target "$target"
    cp "$CARGO_TARGET_DIR/$target/mobile/libt2lc_runtime.a" "$output/$abi/"
}

build arm64-v8a aarch64-linux-android
build armeabi-v7a armv7-linux-androideabi armv7a-linux-androideabi
build x86_64 x86_64-linux-android
build x86 i686-linux-android
