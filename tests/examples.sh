#!/usr/bin/env bash
# Checks the examples in tests/examples against the JSON schemas of GitHub workflows and of
# Kubernetes, and that both checkers find a mistake.
#
# Schemas and checkers come from two Python packages, check-jsonschema and kubernetes-validate. They
# are installed, pinned and checked by sha256, into a virtual environment that later runs use again:
# ${T2LC_PARTS:-${XDG_CACHE_HOME:-$HOME/.cache}/t2lc/parts}/schemas, about 160 MB. Needs Linux on
# x86-64 and Python 3.11 to 3.14 with venv and pip. No schema is fetched when the checks run.
set -euo pipefail
cd "$(dirname "$0")/examples"

# The Kubernetes release whose schemas are used; properties that it does not have are mistakes.
kubernetes=1.37

main() {
    install
    workflow github-actions.yml
    manifest kubernetes-indexed-job.yaml

    broken=$(mktemp -d)
    sed '0,/runs-on:/s//run-on:/' github-actions.yml >"$broken/workflow.yml"
    refuses workflow "$broken/workflow.yml"
    sed 's/completionMode:/completionMod:/' kubernetes-indexed-job.yaml >"$broken/jobs.yaml"
    refuses manifest "$broken/jobs.yaml"
    echo "2 examples are right, 2 mistakes were found"
}

workflow() {
    "$venv/bin/python" -m check_jsonschema --builtin-schema vendor.github-workflows "$1"
}

manifest() {
    local found
    # A kind without a schema is only a warning there.
    found=$("$venv/bin/python" -m kubernetes_validate --strict -k "$kubernetes" "$1") || {
        echo "$found"
        return 1
    }
    echo "$found"
    [[ $found != *WARN* ]]
}

refuses() {
    if "$@" >/dev/null; then
        fail "a mistake in $2 was not found by $1"
    fi
}

install() {
    if [[ -f $venv/pins && $(<"$venv/pins") == "$pins" ]] && "$venv/bin/python" -c ""; then
        return
    fi
    echo "fetching schemas" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --require-hashes --requirement /dev/stdin <<<"$pins" >&2
    printf '%s\n' "$pins" >"$venv/pins"
}

fail() {
    echo "tests/examples.sh: $1" >&2
    exit 1
}

# What both packages need, for each Python where the files differ.
pins=$(
    cat <<'END'
attrs==26.1.0 --hash=sha256:c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309
certifi==2026.10.19.post1 --hash=sha256:1324c476b4811eff41a8bc2122cd0bbd4d9c7234c725446d99ab1612b3a7fdd2
charset-normalizer==3.5.2 --hash=sha256:b6b751274acb69d77b3323d6b7dbaa3c7fdfc1eb829b7eb61d262f32e1af9685
check-jsonschema==0.39.0 --hash=sha256:14ce5c94871c551268ea948ffe21e9f1464dc48fb20bf9a4c13deeaaf756cf9b
click==8.5.1 --hash=sha256:8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37
idna==3.20 --hash=sha256:ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c
importlib-resources==7.1.0 --hash=sha256:1bd7b48b4088eddb2cd16382150bb515af0bd2c70128194392725f82ad2c96a1
jsonschema==4.26.0 --hash=sha256:d489f15263b8d200f8387e64b4c3a75f06629559fb73deb8fdfb525f2dab50ce
jsonschema-specifications==2025.9.1 --hash=sha256:98802fee3a11ee76ecaca44429fda8a41bff98b00a0f2838151b113f210cc6fe
kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9
packaging==26.3 --hash=sha256:d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c
pyyaml==6.0.4 \
    --hash=sha256:622aa875fa6533f25fedcffe23079357d65a690d462200afed5d8e9d0e01ebee \
    --hash=sha256:93bfb2459195406a518e2f487a9bbf01df240175f31e06f5a252ac6734c7bbf0 \
    --hash=sha256:50588147ab2c6a59b5f990a4905db80899a6c2bd197e046a6201f1e67587e794 \
    --hash=sha256:c604dc2613c417130479cdd6e55c2faa691b6365aa82b3dafddfcecc2eaf1ac7
referencing==0.37.0 --hash=sha256:381329a9f99628c9069361716891d34ad94af76e461dcb0335825aecc7692231
regress==2026.9.1 \
    --hash=sha256:f5a0586fcd3f630af280d807bf81f61a2a653c83f7aefc7d4c1625d3e3b93159 \
    --hash=sha256:cb43e6daa63d68133e125b550f66cc9a1ce6830fede5a1eb87ece9607c7bb622 \
    --hash=sha256:c6c38738d973ee4680da9884c11bbd473841be6d660dbd00142192c279b01789 \
    --hash=sha256:56716962a7c42f1ddb2d9d5467282f1f4855538e9f221cb0c5f51f1c9a2056be
requests==2.34.2 --hash=sha256:2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0
rpds-py==2026.9.1 \
    --hash=sha256:136a1c3fe4402b7008bc81cb62ee538481795b61a7e83df88dff3b3f02b726ff \
    --hash=sha256:addeda51556dac7c1a2f14cda62db8b621cd12afba3091d03a96c72932387eab \
    --hash=sha256:7868b85224291c6cb6759f9b5adb9745f486d226f62b16a614dd5a2a5ab2b35b \
    --hash=sha256:eac2f5dbafd585dfe31f86a23ebf0d3ba480a9d49ebc87947267b5608d4ea0cd
ruamel-yaml==0.19.1 --hash=sha256:27592957fedf6e0b62f281e96effd28043345e0e66001f97683aa9a40c667c93
typing-extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
urllib3==2.8.0 --hash=sha256:0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3
END
)
parts=${T2LC_PARTS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/t2lc/parts}
mkdir -p "$parts"
parts=$(cd "$parts" && pwd) # absolute: the examples are in another folder
venv=$parts/schemas
broken=
trap '[[ -z $broken ]] || rm -rf "$broken"' EXIT

main
