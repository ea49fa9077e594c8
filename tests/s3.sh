#!/usr/bin/env bash
# Shares a store through S3, over a real connection: a local server speaks the protocol, one process
# compiles into the bucket, and another one with an empty store of its own assembles from there.
#
# Builds with --features aws. Needs python3 with pip; moto comes into a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

moto="moto[server,s3]==5.2.5"
work=$(mktemp -d)
server=
trap 'if [[ -n $server ]]; then kill "$server"; fi; rm -rf "$work"' EXIT

cargo build --quiet --release --features aws
t2lc=$(realpath "${CARGO_TARGET_DIR:-target}/release/t2lc")
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$moto" >&2

port=$("$work/venv/bin/python" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')
"$work/venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$work/server.log" 2>&1 &
server=$!
export AWS_ENDPOINT=http://127.0.0.1:$port AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
for _ in $(seq 100); do
    curl --silent --output /dev/null --request PUT "$AWS_ENDPOINT/adapters" && break
    sleep 0.1
done

cd "$work"
cat >pack.toml <<'END'
schema = 1

[[adapter]]
name = "legal"
description = "summarize legal text"

[[adapter]]
name = "plural"
description = "give the plural of the noun"
END
remote=s3://adapters/team/store
"$t2lc" pack compile --store first --remote $remote
"$t2lc" pack assemble --store second --remote $remote
"$t2lc" pack verify
cmp <(cd first && find . -type f | sort) <(cd second && find . -type f | sort)
diff -r first second
echo "same: a store of two machines behind S3"
