#!/usr/bin/env bash
# Fetches what the tests need (pinned, checked, cached) and runs all of them.
set -euo pipefail
cd "$(dirname "$0")/.."

T2LC_PARTS="$(tests/parts.sh)"
export T2LC_PARTS
exec cargo test --release --config tests/quick.toml --workspace \
    --features train,tract,ort,llama,remote "$@"
