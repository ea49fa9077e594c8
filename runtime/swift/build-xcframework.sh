#!/usr/bin/env bash
# Builds T2LC.xcframework, the static library of t2lc-runtime for iPhones, the simulator and Macs:
#
#     build-xcframework.sh [OUTPUT]
#
# OUTPUT is the folder that it goes to, by default build/ beside this script. FEATURES are features of
# t2lc-runtime besides capi, for example tract. Needs macOS with Xcode, and cargo with the five targets.
set -euo pipefail

if [[ $(uname -s) != Darwin ]]; then
    echo "build-xcframework.sh: needs macOS with Xcode, this is $(uname -s)" >&2
    exit 1
fi
for tool in cargo lipo xcodebuild; do
    if ! command -v "$tool" >/dev/null; then
        echo "build-xcframework.sh: $tool is missing" >&2
        exit 1
    fi
done

here=$(cd "$(dirname "$0")" && pwd)
output=${1:-$here/build}
mkdir -p "$output"
output=$(cd "$output" && pwd)
cd "$here/../.."

# Those of Package.swift.
export IPHONEOS_DEPLOYMENT_TARGET=15.0
export MACOSX_DEPLOYMENT_TARGET=12.0

parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

main() {
    mkdir -p "$parts/device" "$parts/simulator" "$parts/mac" "$parts/headers"
    cp "$here/../include/t2lc.h" "$parts/headers/"
    cat >"$parts/headers/module.modulemap" <<'END'
module CT2LC {
    header "t2lc.h"
    export *
}
END

    local target
    for target in aarch64-apple-ios aarch64-apple-ios-sim x86_64-apple-ios \
        aarch64-apple-darwin x86_64-apple-darwin; do
        cargo rustc -p t2lc-runtime --locked --profile mobile --no-default-features \
            --features "capi ${FEATURES:-}" --crate-type staticlib --target "$target"
    done
    cp "$(library aarch64-apple-ios)" "$parts/device/"
    lipo -create "$(library aarch64-apple-ios-sim)" "$(library x86_64-apple-ios)" \
        -output "$parts/simulator/libt2lc_runtime.a"
    lipo -create "$(library aarch64-apple-darwin)" "$(library x86_64-apple-darwin)" \
        -output "$parts/mac/libt2lc_runtime.a"

    rm -rf "$output/T2LC.xcframework"
    xcodebuild -create-xcframework \
        -library "$parts/device/libt2lc_runtime.a" -headers "$parts/headers" \
        -library "$parts/simulator/libt2lc_runtime.a" -headers "$parts/headers" \
        -library "$parts/mac/libt2lc_runtime.a" -headers "$parts/headers" \
        -output "$output/T2LC.xcframework"
}

library() {
    echo "$CARGO_TARGET_DIR/$1/mobile/libt2lc_runtime.a"
}

main
