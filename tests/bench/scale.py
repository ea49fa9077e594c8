#!/usr/bin/env python3
"""Measures a bundle of the size of the published one for Mistral-7B, from import to compile.

    cargo build --release --features tract,ort && python3 tests/bench/scale.py

The weights are random, the shapes are real: a hypernetwork of variant L with 55.4 million parameters
in the form of the reference implementation, and a text encoder of the shape of gte-large-en-v1.5
with 434 million. They are imported, exported with f32, f16 and int8 weights, and one description is
compiled on every backend. Prints Markdown tables:

- import and export: wall time and peak resident memory of the process, size of what it writes;
- compile: time of a cold one (opening the bundle and checking its digests included) and the median
  of warm ones in the same process, both in the C library; peak resident memory of the cold one, all
  of it and without the pages of mapped files; and how far its matrices are from those of f32 weights
  on the same backend: the relative Frobenius norm of the difference of `B A`, over all modules.

Needs numpy, a C compiler, T2LC_ORT_LIBRARY for ONNX Runtime, the folder that `tests/parts.sh` fills
(for a tokenizer), about 9 GB in the folder for temporary files, or in `--work`, and 12 GB of memory.
Files that are already in `--work` are used as they are. Linux only.
"""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
DESCRIPTION = "Summarize a clause of a contract in plain English for a person without legal training."
WEIGHTS = ("f32", "f16", "int8")
BACKENDS = ("exact", "tract", "ort")

LAYERS, RANK = 32, 8
MODULES = {"q_proj": (4096, 4096), "v_proj": (4096, 1024)}  # inputs, outputs
LATENT, HEAD_IN, WIDTH = 128, 512, 1024

MISTRAL = {
    "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": LAYERS, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000,
}
GTE = {
    "model_type": "new", "hidden_act": "gelu", "layer_norm_type": "layer_norm",
    "position_embedding_type": "rope", "hidden_size": WIDTH, "num_hidden_layers": 24,
    "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 30528,
    "max_position_embeddings": 8192, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "rope_theta": 160000, "rope_scaling": {"type": "ntk", "factor": 2.0}, "pack_qkv": True,
}
ARGUMENTS = {
    "model_dir": "mistralai/Mistral-7B-Instruct-v0.2", "emb_model": "Alibaba-NLP/gte-large-en-v1.5",
    "training_task": "sft", "target_modules": list(MODULES), "hypernet_latent_size": LATENT,
    "head_in_size": HEAD_IN, "shared_AB_head": False, "autoreg_gen": False,
    "learnable_pos_emb": False, "learnable_AB_offset": False, "pred_z_score": False,
    "use_one_hot_task_emb": False, "mt_lora_path": None, "train_ds_names": [],
}
ADAPTER = {
    "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "use_rslora": True,
    "target_modules": list(MODULES), "base_model_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
}


def gte_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the encoder's tensors."""
    hidden, inner = GTE["hidden_size"], GTE["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (GTE["vocab_size"], hidden),
        "embeddings.token_type_embeddings.weight": (GTE["type_vocab_size"], hidden),
        "embeddings.LayerNorm.weight": (hidden,), "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(GTE["num_hidden_layers"]):
        part = f"encoder.layer.{layer}."
        shapes |= {
            part + "attention.qkv_proj.weight": (3 * hidden, hidden),
            part + "attention.qkv_proj.bias": (3 * hidden,),
            part + "attention.o_proj.weight": (hidden, hidden),
            part + "attention.o_proj.bias": (hidden,),
            part + "mlp.up_gate_proj.weight": (2 * inner, hidden),
            part + "mlp.down_proj.weight": (hidden, inner),
            part + "mlp.down_proj.bias": (hidden,),
        }
        shapes |= {
            f"{part}{norm}.{kind}": (hidden,)
            for norm in ("attn_ln", "mlp_ln") for kind in ("weight", "bias")
        }
    return shapes


def hypernet_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the hypernetwork's tensors, in the order of the reference."""
    z, quarter, wide = LATENT, LATENT // 4, 4 * LATENT
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix in ("AB_offset", "mean_recon_target", "std_recon_target"):
        shapes |= {f"{prefix}.A.{m}": (LAYERS, RANK, i) for m, (i, _) in MODULES.items()}
        shapes |= {f"{prefix}.B.{m}": (LAYERS, o, RANK) for m, (_, o) in MODULES.items()}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (size,), (size,)

    linear("task_encoder.mlp.0", WIDTH, z // 2)
    norm("task_encoder.mlp.1", z // 2)
    for name, count in (("layer_depth_encoder", LAYERS), ("layer_type_encoder", len(MODULES))):
        shapes[f"{name}.0.weight"] = (count, quarter)
        norm(f"{name}.1", quarter)
    linear("mixer.1", z, wide)
    linear("mixer.4", wide, z)
    for name in ("mlp1.mlp", "mlp2.mlp", "mlp3"):
        norm(f"{name}.0", z)
        linear(f"{name}.1", z, wide)
        linear(f"{name}.4", wide, HEAD_IN if name == "mlp3" else z)
    for module, (inputs, outputs) in MODULES.items():
        linear(f"heads.{module}", HEAD_IN, RANK * (inputs + outputs))
    return shapes


def values(
    name: str, shape: tuple[int, ...], draw: np.random.Generator, spread: float | None = None
) -> np.ndarray:
    """Weights as before training: normal with this spread, or such that outputs are as inputs."""
    if name.split(".")[0] in ("AB_offset", "mean_recon_target", "std_recon_target"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.full(shape, name.endswith("weight"), np.float32)
    return draw.standard_normal(shape, np.float32) * np.float32(spread or shape[1] ** -0.5)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random tensors, one after the other, with the spread that BERT's have at first."""
    draw, header, start = np.random.default_rng(1), {}, 0
    for name, shape in shapes.items():
        end = start + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(values(name, shape, draw, 0.02).tobytes())


def write_archive(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random tensors as `torch.save` stores a state dict, without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    class FloatStorage:
        """Stands for a storage; the pickler asks for its key and length."""

    def _rebuild_tensor_v2(*_arguments: object) -> None:
        """Only its name goes into the pickle."""

    FloatStorage.__module__, FloatStorage.__qualname__ = "torch", "FloatStorage"
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch.FloatStorage, utils._rebuild_tensor_v2 = FloatStorage, _rebuild_tensor_v2
    sys.modules |= {"torch": torch, "torch._utils": utils}

    class Storage:
        """A storage of the archive."""

        def __init__(self, key: int, elements: int) -> None:
            self.key, self.elements = key, elements

    class Tensor:
        """A whole storage as a tensor."""

        def __init__(self, key: int, shape: tuple[int, ...]) -> None:
            self.storage, self.shape = Storage(key, int(np.prod(shape))), shape

        def __reduce__(self) -> tuple:
            strides = tuple(int(np.prod(self.shape[axis + 1:])) for axis in range(len(self.shape)))
            return _rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        """Names storages as torch does."""

        def persistent_id(self, value: object) -> tuple | None:
            if isinstance(value, Storage):
                return ("storage", FloatStorage, str(value.key), "cpu", value.elements)
            return None

    state = OrderedDict((name, Tensor(key, shape)) for key, (name, shape) in enumerate(shapes.items()))
    draw = np.random.default_rng(2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("hypermod/data.pkl", "w") as file:
            Pickler(file, 2).dump(state)
        archive.writestr("hypermod/byteorder", "little")
        for key, (name, shape) in enumerate(shapes.items()):
            archive.writestr(f"hypermod/data/{key}", values(name, shape, draw).tobytes())
        archive.writestr("hypermod/version", "3\n")


def prepare(work: Path, parts: Path) -> None:
    """Writes encoder and checkpoint, unless they are there."""
    encoder, checkpoint = work / "gte", work / "t2l"
    if not encoder.exists():
        encoder.mkdir()
        (encoder / "config.json").write_text(json.dumps(GTE))
        shutil.copy(parts / "encoder/tokenizer.json", encoder)
        write_safetensors(encoder / "model.safetensors", gte_shapes())
    if not checkpoint.exists():
        checkpoint.mkdir()
        (checkpoint / "args.yaml").write_text(json.dumps(ARGUMENTS))
        (checkpoint / "adapter_config.json").write_text(json.dumps(ADAPTER))
        (checkpoint / "config.json").write_text(json.dumps(MISTRAL))
        write_archive(checkpoint / "hypermod.pt", hypernet_shapes())


def process(command: list[str]) -> tuple[float, float]:
    """Wall time in s and peak resident memory in GB of a process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"scale.py: `{' '.join(command)}` failed:\n{said.decode()}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def folder_gb(folder: Path) -> float:
    """Size of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e9


def matrices(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a PEFT directory in f64."""
    data = (folder / "adapter_model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensor = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
        tensors[name] = tensor.astype(np.float64)
    return tensors


def distance(folder: Path, reference: Path) -> float:
    """Relative Frobenius norm of the difference of two adapters."""
    got, want = matrices(folder), matrices(reference)
    squares = {"difference": 0.0, "reference": 0.0}
    for name, a in want.items():
        if "lora_A" not in name:
            continue
        other = name.replace("lora_A", "lora_B")
        # The squared norm of B A is the trace of BᵀB · AAᵀ, and a difference is a product, too.
        left = np.hstack([got[other], -want[other]])
        right = np.vstack([got[name], a])
        for key, (b, a) in {"difference": (left, right), "reference": (want[other], a)}.items():
            squares[key] += float(np.sum((b.T @ b) * (a @ a.T)))
    return (max(squares["difference"], 0.0) / squares["reference"]) ** 0.5


def build_timer(work: Path) -> Path:
    """The C program that opens a bundle and compiles, with all backends."""
    cargo = ["cargo", "rustc", "--quiet", "--release", "--package", "t2lc-runtime", "--features",
             "capi,tract,ort", "--crate-type", "cdylib"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    library, timer = work / "libt2lc_runtime.so", work / "timer"
    shutil.copy(TARGET / "release/libt2lc_runtime.so", library)
    source, include = ROOT / "runtime/examples/soak.c", ROOT / "runtime/include"
    subprocess.run(["cc", "-std=c11", "-O2", f"-I{include}", source, library, f"-Wl,-rpath,{work}",
                    "-pthread", "-lm", "-o", timer], check=True)
    return timer


def compile_row(timer: Path, bundle: Path, backend: str, runs: int, warm: int) -> dict:
    """Medians of some processes that compile with a bundle on a backend."""
    rows = []
    for _ in range(runs):
        found = subprocess.run([timer, bundle, "time", str(warm), backend], check=True,
                               stdout=subprocess.PIPE).stdout
        rows.append(json.loads(found))
    return {key: sorted(row[key] for row in rows)[len(rows) // 2]
            for key in ("cold_ms", "warm_ms", "cold_peak_kib", "cold_peak_anonymous_kib")}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measures a bundle of the size of Mistral's.")
    parser.add_argument("--binary", type=Path, default=TARGET / "release/t2lc")
    parser.add_argument("--work", type=Path, help="folder for the files, which are kept")
    parser.add_argument("--weights", default=",".join(WEIGHTS), help="weight types, f32 first")
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--runs", type=int, default=3, help="processes of each kind")
    parser.add_argument("--warm", type=int, default=5, help="warm compiles of each process")
    args = parser.parse_args()
    parts = subprocess.run([ROOT / "tests/parts.sh"], check=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="t2lc-scale-") as temporary:
        work = (args.work or Path(temporary)).resolve()
        measure(args, work, Path(parts))


def measure(args: argparse.Namespace, work: Path, parts: Path) -> None:
    """Measures in a folder."""
    prepare(work, parts)
    binary, run = str(args.binary.resolve()), work / "run"
    weights, backends = args.weights.split(","), args.backends.split(",")
    print("| | wall, s | peak memory, GB | size, GB |\n|---|--:|--:|--:|")
    wall, peak = process([binary, "import", str(work / "t2l"), "--base-config",
                          str(work / "t2l/config.json"), "-o", str(run), "--force"])
    print(f"| import | {wall:.1f} | {peak:.2f} | {folder_gb(run):.2f} |", flush=True)
    for kind in weights:
        bundle = work / f"{kind}.t2lc"
        wall, peak = process([binary, "export", str(run), "--encoder", str(work / "gte"),
                              "--encoder-weights", kind, "--hypernet-weights", kind,
                              "-o", str(bundle), "--force"])
        print(f"| export {kind} | {wall:.1f} | {peak:.2f} | {folder_gb(bundle):.2f} |", flush=True)

    timer = build_timer(work)
    print("\n| weights | backend | cold, ms | warm, ms | peak, GB | of the bundle | without mapped "
          "files, GB | distance to f32 |\n|---|---|--:|--:|--:|--:|--:|--:|")
    for backend in backends:
        for kind in weights:
            bundle, adapter = work / f"{kind}.t2lc", work / f"{backend}-{kind}"
            row = compile_row(timer, bundle, backend, args.runs, args.warm)
            process([binary, "compile", DESCRIPTION, "--bundle", str(bundle), "--backend", backend,
                     "--format", "peft", "-o", str(adapter), "--force"])
            peak = row["cold_peak_kib"] * 1024 / 1e9
            far = distance(adapter, work / f"{backend}-{weights[0]}")
            print(f"| {kind} | `{backend}` | {row['cold_ms']:.0f} | {row['warm_ms']:.0f} | "
                  f"{peak:.2f} | {peak / folder_gb(bundle):.2f} | "
                  f"{row['cold_peak_anonymous_kib'] * 1024 / 1e9:.2f} | {far:.2%} |", flush=True)


if __name__ == "__main__":
    main()
