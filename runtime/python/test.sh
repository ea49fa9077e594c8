#!/usr/bin/env bash
# Builds the Python package, installs it in a virtual environment of its own and runs its tests:
#
#     test.sh BUNDLE [WHEEL]
#
# With WHEEL, that wheel is tested and nothing is built. Otherwise this needs cargo. PYTHON names the
# interpreter, by default python3; it needs venv and pip, and pip a package index.
set -euo pipefail

if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: $0 BUNDLE [WHEEL]" >&2
    exit 2
fi
T2LC_BUNDLE=$(cd "$1" && pwd)
export T2LC_BUNDLE
package=${2:+$(realpath "$2")}
cd "$(dirname "$0")"

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/venv"
python=$directory/venv/bin/python
pip=("$python" -m pip --disable-pip-version-check install --quiet)

"${pip[@]}" --only-binary=:all: --requirement /dev/stdin <<'END'
gguf==0.19.0
numpy==2.0.2; python_version < "3.11"
numpy==2.4.6; python_version >= "3.11"
safetensors==0.8.0
END
if [[ -n $package ]]; then
    "${pip[@]}" "$package"
else
    "${pip[@]}" --config-settings=build-args=--locked .
fi

# From elsewhere, so that the installed package is tested and not the sources.
tests=$PWD/tests/test_t2lc.py
cd "$directory"
"$python" "$tests" 2>&1 # where unittest reports
