#!/usr/bin/env python3
"""Checks what `t2lc export --format text-to-lora` wrote with the libraries that will read it.

Needs the packages torch, safetensors and pyyaml; a CPU build will do. Run by hand:

    t2lc export RUN --format text-to-lora --encoder-name NAME -o BACK
    python3 tests/write_back.py RUN BACK

`hypermod.pt` must load without executing anything, also when it is mapped to memory; its pickle
must be the one that torch.save writes for these tensors; every tensor must be that of the
checkpoint, to the bit, and what the checkpoint does not have must be zero; heads must be in the
order of the type index. Networks for z-scores lack biases of heads, and their means differ where
there were some. The settings must be those of the checkpoint. Prints one line; exits with 1 at the
first difference.
"""

import argparse
import io
import json
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

Tensors = OrderedDict[str, torch.Tensor]  # in the order of the file

CONSTANT = ("AB_offset.", "mean_recon_target.", "std_recon_target.")


def require(condition: bool, message: str) -> None:
    """Ends the program if something is not as it must be."""
    if not condition:
        sys.exit(f"error: {message}")


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether both have the same type, shape and bits."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))


def check_archive(path: Path, tensors: Tensors) -> None:
    """Compares entries and pickle with those of PyTorch."""
    buffer = io.BytesIO()
    plain = OrderedDict((name, tensor.clone()) for name, tensor in tensors.items())
    torch.save(plain, buffer)
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(buffer) as theirs:
        require(ours.testzip() is None, "an entry of the archive is damaged")
        root = theirs.namelist()[0].split("/")[0]
        want = theirs.read(f"{root}/data.pkl")
        require(ours.read("hypermod/data.pkl") == want, "the pickle is not that of torch.save")
        for entry in ours.infolist():
            require(entry.compress_type == zipfile.ZIP_STORED, f"{entry.filename} is compressed")
            twin = f"{root}/{entry.filename.removeprefix('hypermod/')}"
            require(ours.read(entry) == theirs.read(twin), f"{entry.filename} is another one")


def check_tensors(
    tensors: Tensors, stored: dict[str, torch.Tensor], modules: list[str]
) -> int:
    """Compares with the tensors of the checkpoint; gives the number of folded means."""
    z_scores = any(name.startswith("std_recon_target.") for name in stored)
    biases = {f"heads.{module}.bias" for module in modules}
    left_out = biases if z_scores else set()
    missing = stored.keys() - tensors.keys() - left_out
    require(not missing, f"missing: {sorted(missing)}")
    folded = 0
    for name, tensor in tensors.items():
        if name not in stored:
            require(name.startswith(CONSTANT), f"{name} is not of the checkpoint")
            require(not tensor.any(), f"{name} is not zero")
        elif not same(tensor, stored[name]):
            bias = stored[f"heads.{name.rsplit('.', 1)[1]}.bias"]
            is_folded = name.startswith("mean_recon_target.") and bool(bias.any())
            require(z_scores and is_folded, f"{name} differs")
            folded += 1
    heads = [name.split(".")[1] for name in tensors if name.startswith("heads.")]
    require(list(dict.fromkeys(heads)) == modules, f"heads are in the order {heads}")
    return folded


def check_settings(written: Path, config: dict[str, Any]) -> None:
    """Compares the settings with the configuration of the checkpoint."""
    arguments = yaml.safe_load((written / "args.yaml").read_text("ascii"))
    adapter = json.loads((written / "adapter_config.json").read_text("utf-8"))
    modules = [module["name"] for module in config["base"]["modules"]]
    variant = config["variant"]
    for settings, key, want in (
        (arguments, "hypernet_latent_size", config["latent_size"]),
        (arguments, "head_in_size", config["head_in_size"]),
        (arguments, "shared_AB_head", variant != "L"),
        (arguments, "autoreg_gen", variant == "S"),
        (arguments, "learnable_pos_emb", variant == "S"),
        (arguments, "target_modules", modules),
        (arguments, "mt_lora_path", None),
        (adapter, "r", config["rank"]),
        (adapter, "use_rslora", config["use_rslora"]),
        (adapter, "target_modules", modules),
    ):
        require(settings[key] == want, f"{key} is {settings[key]!r}, expected {want!r}")
    alpha = adapter["lora_alpha"]
    require(abs(alpha - config["alpha"]) <= 1e-6 * alpha, f"lora_alpha is {alpha}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Checks a checkpoint that was written back.")
    parser.add_argument("checkpoint", type=Path, help="what was exported")
    parser.add_argument("written", type=Path, help="what the export wrote")
    args = parser.parse_args()
    config = json.loads((args.checkpoint / "config.json").read_text("utf-8"))
    modules = [module["name"] for module in config["base"]["modules"]]
    stored = load_file(args.checkpoint / "hypernet.safetensors")
    path = args.written / "hypermod.pt"
    tensors = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    require(list(tensors) == list(mapped), "mapped to memory, the tensors are others")
    for name, tensor in tensors.items():
        require(tensor.dtype == torch.float32, f"{name} has type {tensor.dtype}")
        require(same(tensor, mapped[name]), f"{name} differs when it is mapped to memory")
        require(mapped[name].data_ptr() % 64 == 0, f"{name} is not aligned to 64 bytes")
    check_archive(path, tensors)
    folded = check_tensors(tensors, stored, modules)
    check_settings(args.written, config)
    note = f", {folded} means with biases in them" if folded else ""
    print(f"ok: {len(tensors)} tensors of variant {config['variant']}{note}")


if __name__ == "__main__":
    main()
