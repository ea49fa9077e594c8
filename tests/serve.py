#!/usr/bin/env python3
"""Swaps the adapters of a pack per request, in a real llama-server.

    parts="$(tests/parts.sh)"; base="$parts/base/SmolLM2-135M-Instruct.Q4_1.gguf"
    python3 tests/serve.py target/release/t2lc "$base" "$parts"

Builds a pack of two adapters in a temporary folder and asks `t2lc pack serve-args` how to serve it.
llama.cpp's own parser reads that command line, and its server runs in this process with what the
parser made of it. Prints a line per check; the first one that fails ends the script with status 1.
Needs Python 3.10 or newer on 64 bits and the parts `llama-server` and `gemma`.
"""

import ctypes
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

PACK = """schema = 1
[[adapter]]
name = "french"
description = "translate English to French"
[[adapter]]
name = "capitals"
description = "write the text in capital letters"
"""
PROMPTS = ["Good morning, my friend.", "The house is big."]
# One slot, so that every request meets what the one before left behind.
OPTIONS = "--host 127.0.0.1 --port 0 --parallel 1 --ctx-size 1024 --cache-ram 0 --no-warmup".split()
ANSWER = {"temperature": 0, "max_tokens": 24}

# `bool common_params_parse(int, char **, common_params &, llama_example, void (*)(int, char **))`
# in the pinned build, and there the number of the server among the programs that share it.
PARSER = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
SERVER = 12

# The system's proxies do not lead to this process.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check(what, holds, found):
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(f"serve.py: found {found}")


def parsed(module, command):
    """What llama.cpp makes of a command line."""
    params = module.CommonParams()
    parse = ctypes.CDLL(module.xllamacpp.__file__)[PARSER]
    parse.restype = ctypes.c_bool
    pointer = ctypes.c_void_p
    parse.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p), pointer, ctypes.c_int, pointer]
    argv = (ctypes.c_char_p * (len(command) + 1))(*map(os.fsencode, command), None)
    # The object is Python's header and then the struct.
    struct = id(params) + object.__basicsize__
    taken = parse(len(command), argv, struct, SERVER, None)
    check("llama.cpp's parser takes the command line", taken, command)
    return params


def send(server, path, body=None):
    """The answer to a GET, or with a body to a POST."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, data, headers)
    with OPENER.open(request, timeout=300) as response:
        return json.load(response)


def answers(server, request):
    """What the server says to every prompt."""
    found = []
    for prompt in PROMPTS:
        body = {"messages": [{"role": "user", "content": prompt}], **ANSWER, **request}
        answer = send(server, "/v1/chat/completions", body)
        found.append(answer["choices"][0]["message"]["content"])
    return found


def without_adapters(module, base):
    """What the base says where no adapter is loaded."""
    server = module.Server(parsed(module, ["llama-server", "-m", str(base), *OPTIONS]))
    return answers(server, {"cache_prompt": False})


def swap(module, serving, expected):
    """Starts the server as `serve-args` says, and asks every adapter in turn."""
    params = parsed(module, [*serving["command"], *OPTIONS])
    loaded = [(adapter.path, adapter.scale) for adapter in params.lora_adapters]
    paths = [adapter["path"] for adapter in serving["adapters"]]
    wanted = [(path, 0.0) for path in paths]
    check("the command line has every adapter once, with scale 0", loaded == wanted, loaded)

    server = module.Server(params)
    wanted = [(adapter["id"], adapter["path"], 0.0) for adapter in serving["adapters"]]
    for when in ["after the start", "after the POST of all scales"]:
        listed = [(a["id"], a["path"], a["scale"]) for a in send(server, "/lora-adapters")]
        check(f"ids, paths and scales are those of serve-args {when}", listed == wanted, listed)
        send(server, "/lora-adapters", serving["initial"])

    requests = {**serving["requests"], "base": serving["base_request"]}
    order = ["french", "capitals", "french", "capitals", "base", "french", "base"]
    said = {}
    for name in order:
        found = answers(server, requests[name])
        print(f"{name}: {found}", flush=True)
        check(f"`{name}` says what it said before", said.setdefault(name, found) == found, found)
    check("the adapters say different things", said["french"] != said["capitals"], said)
    check("`french` does not say what the base says", said["french"] != expected, said)
    check("`capitals` does not say what the base says", said["capitals"] != expected, said)
    check("with all scales 0 the base speaks as without adapters", said["base"] == expected, said)


def main():
    t2lc, base, parts = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    if not (parts / "llama-server").is_dir():
        sys.exit(f"serve.py: `{parts}/llama-server` is missing: run tests/parts.sh")
    sys.path.insert(0, str(parts / "llama-server"))
    module = importlib.import_module("xllamacpp")

    with tempfile.TemporaryDirectory(prefix="t2lc-serve-") as folder:
        os.chdir(folder)  # paths of the pack are relative
        os.environ.pop("T2LC_REMOTE", None)  # the store of this test is nobody else's
        pathlib.Path("pack.toml").write_text(PACK, encoding="utf-8")
        subprocess.run([t2lc, "pack", "build", "--store", "store"], check=True)
        command = [t2lc, "pack", "serve-args", "--json", "--base"]
        other = parts / "gemma/gemma-3-270m-q4_k_m.gguf"
        refused = subprocess.run([*command, other], capture_output=True, text=True)
        named = refused.returncode == 1 and "is not the base of the pack" in refused.stderr
        check("another base is refused", named, refused)
        printed = subprocess.run([*command, base], check=True, stdout=subprocess.PIPE).stdout
        swap(module, json.loads(printed), without_adapters(module, base))
        os.chdir("/")  # the folder goes


if __name__ == "__main__":
    main()
