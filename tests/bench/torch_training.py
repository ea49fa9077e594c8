#!/usr/bin/env python3
"""PyTorch's side of the training benchmark: the steps of `training.rs`, on the same batches.

Needs the packages torch, transformers, accelerate and gguf; CPU builds will do.

A hypernetwork (Text-to-LoRA, variant L: latent 256, head 256, rank 8 on q_proj and v_proj) gives
every task an adapter; forward hooks add the adapters to the frozen base, one batched product for
all examples; logits are computed where an answer token is predicted. Step s has the training tasks
8 s to 8 s + 7 in file order (wrapping) with the first four training examples of each; the first
step warms up. Task embeddings are random. Prints one line of JSON: tokens (of prompts and answers,
padding left out), tokens_per_s, s_per_step, peak_mib, and the loss of the first and last step.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

TASKS_PER_STEP = 8
EXAMPLES_PER_TASK = 4
EMBEDDING_SIZE = 384
LATENT_SIZE = 256
HEAD_IN_SIZE = 256
RANK = 8
SCALE = 2.0  # alpha 16 / rank 8
MODULES = ("q_proj", "v_proj")
DROPOUT = 0.05
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 1e-2
CLIP_NORM = 1.0
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`

Example = tuple[list[int], list[int]]  # tokens of the prompt, and of the answer with end of turn
Adapters = dict[str, tuple[Tensor, Tensor]]  # per module, A [rows, layers, rank, in] and Bᵀ


def two_layers(size_in: int, size_out: int) -> nn.Sequential:
    """The body that all blocks of the trunk share."""
    inner = 4 * size_in
    first = (nn.Linear(size_in, inner), nn.SiLU(), nn.Dropout(DROPOUT))
    return nn.Sequential(*first, nn.Linear(inner, size_out), nn.SiLU())


class Residual(nn.Module):
    """A residual block of the trunk."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(size), two_layers(size, size), nn.Dropout(DROPOUT))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Hypernet(nn.Module):
    """Task embeddings [tasks, E] to adapters; starts at the base model (Bias-HyperInit)."""

    def __init__(self, layers: int, sizes: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.sizes = sizes
        latent, half, quarter = LATENT_SIZE, LATENT_SIZE // 2, LATENT_SIZE // 4
        self.task = nn.Sequential(nn.Linear(EMBEDDING_SIZE, half), nn.LayerNorm(half))
        self.depth = nn.Sequential(nn.Embedding(layers, quarter), nn.LayerNorm(quarter))
        self.kind = nn.Sequential(nn.Embedding(len(sizes), quarter), nn.LayerNorm(quarter))
        mixer = (nn.Dropout(DROPOUT), two_layers(latent, latent), nn.Dropout(DROPOUT))
        last = (nn.LayerNorm(latent), two_layers(latent, HEAD_IN_SIZE))
        self.trunk = nn.Sequential(*mixer, Residual(latent), Residual(latent), *last)
        self.heads = nn.ModuleDict()
        for name, (size_in, size_out) in sizes.items():
            head = nn.Linear(HEAD_IN_SIZE, RANK * (size_in + size_out))
            bound = size_in**-0.5
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            nn.init.uniform_(head.bias[: RANK * size_in], -bound, bound)
            self.heads[name] = head
        self.register_buffer("layers", torch.arange(layers), persistent=False)
        self.register_buffer("kinds", torch.arange(len(sizes)), persistent=False)

    def forward(self, embeddings: Tensor) -> Adapters:
        tasks, layers = embeddings.shape[0], self.layers.shape[0]
        task = self.task(embeddings)[:, None].expand(tasks, layers, -1)
        depth = self.depth(self.layers)[None].expand(tasks, layers, -1)
        kinds = self.kind(self.kinds)
        adapters = {}
        for kind, (name, (size_in, size_out)) in zip(kinds, self.sizes.items()):
            features = torch.cat([task, depth, kind.expand(tasks, layers, -1)], dim=-1)
            both = self.heads[name](self.trunk(features))
            a, b = both.split([RANK * size_in, RANK * size_out], dim=-1)
            adapters[name] = (
                a.reshape(tasks, layers, RANK, size_in),
                SCALE * b.reshape(tasks, layers, RANK, size_out),
            )
        return adapters


class AdaptedBase:
    """The frozen base, with an adapter of its own for every row."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        folder, file = str(path.parent), path.name
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype)
        self.model = model.requires_grad_(False).eval()
        self.dtype = dtype
        self.adapters: Adapters = {}
        self.layers = len(model.model.layers)
        self.sizes = {}
        for index, layer in enumerate(model.model.layers):
            for name in MODULES:
                linear = getattr(layer.self_attn, name)
                self.sizes[name] = (linear.in_features, linear.out_features)
                linear.register_forward_hook(self.hook(index, name))

    def hook(self, layer: int, name: str):
        """Adds x Aᵀ Bᵀ to the output of a linear map; the scale is in B."""

        def add(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            a, b_transposed = self.adapters[name]
            narrow = torch.bmm(inputs[0], a[:, layer].transpose(1, 2))
            return output + torch.bmm(narrow, b_transposed[:, layer])

        return add

    def encode(self, text: str, answer: str) -> Example:
        """Tokens of a single user message under the file's own template, and of the answer."""
        messages = [{"role": "user", "content": text}]
        prompt = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        ids = [
            self.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer)
        ]
        return ids[0], [*ids[1], self.tokenizer.eos_token_id]

    def loss(self, tasks: list[list[Example]], adapters: Adapters) -> Tensor:
        """Cross-entropy of the answers; tasks, examples and tokens of an answer weigh equally."""
        repeats = torch.tensor([len(examples) for examples in tasks])
        self.adapters = {
            name: (
                a.repeat_interleave(repeats, 0).to(self.dtype),
                b.repeat_interleave(repeats, 0).to(self.dtype),
            )
            for name, (a, b) in adapters.items()
        }
        rows = [
            (prompt, answer, 1 / (len(tasks) * len(examples) * len(answer)))
            for examples in tasks
            for prompt, answer in examples
        ]
        shape = (len(rows), max(len(prompt) + len(answer) for prompt, answer, _ in rows))
        ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        weights = torch.zeros(shape)  # of the token that is predicted
        for row, (prompt, answer, weight) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            mask[row, :end] = 1
            weights[row, len(prompt) : end] = weight
        hidden = self.model.model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        predicted = weights[:, 1:] > 0
        logits = functional.linear(hidden[:, :-1][predicted], self.model.lm_head.weight)
        losses = functional.cross_entropy(logits.float(), ids[:, 1:][predicted], reduction="none")
        return (losses * weights[:, 1:][predicted]).sum()


def training_examples(pack: Path, base: AdaptedBase) -> list[list[Example]]:
    """The first training examples of every training task, in file order."""
    tasks = []
    for task in json.loads((pack / "tasks.json").read_text())["tasks"]:
        if task["split"] == "train":
            lines = map(json.loads, (pack / task["file"]).read_text().splitlines())
            examples = [line for line in lines if line["split"] == "train"][:EXAMPLES_PER_TASK]
            tasks.append([base.encode(line["input"], line["output"]) for line in examples])
    return tasks


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Times training steps on fixed batches.",
        epilog="Needs the packages torch, transformers, accelerate and gguf.",
    )
    parser.add_argument("--base", type=Path, required=True, help="GGUF file of the base")
    parser.add_argument("--pack", type=Path, required=True, help="folder of the task pack")
    parser.add_argument("--steps", type=int, default=10, help="after the first, which warms up")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    return args


def main() -> None:
    """Trains and prints."""
    args = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    base = AdaptedBase(args.base.resolve(), getattr(torch, args.dtype))
    tasks = training_examples(args.pack, base)
    net = Hypernet(base.layers, base.sizes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    start, tokens, losses = 0.0, 0, []
    for step in range(args.steps + 1):
        if step == 1:
            start, tokens = time.perf_counter(), 0
        first = step * TASKS_PER_STEP
        batch = [tasks[(first + k) % len(tasks)] for k in range(TASKS_PER_STEP)]
        tokens += sum(len(p) + len(a) for examples in batch for p, a in examples)
        loss = base.loss(batch, net(torch.randn(len(batch), EMBEDDING_SIZE)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
    line = {
        "name": f"PyTorch {torch.__version__.split('+')[0]}, {args.dtype}",
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "s_per_step": seconds / args.steps,
        "peak_mib": peak_bytes / 2**20,
        "first_loss": losses[0],
        "loss": losses[-1],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
