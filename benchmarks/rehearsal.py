"""The layout of LLaVA-1.5-7B in full width on disk: loaded memory-mapped, and four of its layers run.

    python benchmarks/rehearsal.py --full-width DIR     # 14.1 GB of files, of which about 2.6 GB take space on disk

The published keys and shapes in bfloat16, in three shards with an index. Vision encoder, projector, embeddings, head
and the first four decoder layers have random weights; those of the other layers are holes in the files, zeros that
take no space on disk. Tokenizer and processor are made here. Loading is measured in a process of its own: the memory
that is resident behind it, and the part of it that no file backs ("anonymous"), which is what a copy of the weights
would need.
"""

import argparse
import json
import math
import multiprocessing
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.measure.inputs import made_up_inputs
from zoo_exp.models.answering import EncodedBatch, generate
from zoo_exp.models.families import architecture
from zoo_exp.models.loading import load_model
from zoo_exp.rehearsal import slim

MODEL = "llava-hf/llava-1.5-7b-hf"
SHARDS, RUN, BYTES = 3, 4, 2
"""Files of the published checkpoint, decoder layers that run, bytes of a number in bfloat16."""
BLOCK = 2**22
"""Random numbers that are repeated over a tensor."""
OLD_KEYS = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
"""Key of this version of `transformers` -> key of the published checkpoint."""
Shapes = list[tuple[str, tuple[int, ...]]]


def main() -> None:
    """Build, load and run; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full-width", type=Path, required=True, metavar="DIR", help="takes the checkpoint")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    began = time.perf_counter()
    total = build(args.full_width)
    built = time.perf_counter() - began
    disk = sum(path.stat().st_blocks * 512 for path in args.full_width.iterdir())
    rows = [("checkpoint: size of the weights", gb(total)), ("space that it takes on disk", gb(disk))]
    rows.append(("time to write it", f"{built:.0f} s"))
    rows += apart(measure_load, args.full_width, args.threads)
    rows += apart(measure_run, args.full_width, args.threads)
    print("\n| LLaVA-1.5-7B, bfloat16, CPU | |\n|---|--:|")
    for what, value in rows:
        print(f"| {what} | {value} |")


def build(folder: Path) -> int:
    """Write the checkpoint; returns the bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    slim.make("llava15_7b", folder, weights=False)
    config = architecture(MODEL)
    made_here = transformers.AutoConfig.from_pretrained(folder)
    config.image_token_id = made_here.image_token_id  # of the tokenizer
    config.architectures, config.dtype = ["LlavaForConditionalGeneration"], torch.bfloat16
    config.save_pretrained(folder)
    shapes = published_shapes(config)
    total = sum(BYTES * math.prod(shape) for _, shape in shapes)
    shards: list[Shapes] = [[] for _ in range(SHARDS)]
    filled = 0
    for name, shape in shapes:
        shards[min(SHARDS - 1, filled * SHARDS // total)].append((name, shape))
        filled += BYTES * math.prod(shape)
    places = {}
    for number, part in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        write_shard(folder / file, part)
        places.update({name: file for name, _ in part})
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def published_shapes(config: Any) -> Shapes:
    """Keys and shapes of the published checkpoint."""
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    shapes = []
    for name, tensor in model.state_dict().items():
        old = next((new + name.removeprefix(key) for key, new in OLD_KEYS if name.startswith(key)), name)
        shapes.append((old, tuple(tensor.shape)))
    return shapes


def runs(name: str) -> bool:
    """Whether a tensor is part of what runs."""
    _, found, rest = name.partition("language_model.model.layers.")
    return not found or int(rest.split(".")[0]) < RUN


def write_shard(path: Path, shapes: Shapes) -> None:
    """A safetensors file: random numbers where the model runs, holes elsewhere."""
    header, start = {}, 0
    for name, shape in shapes:
        end = start + BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02
    block = noise.bfloat16().view(torch.int16).numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        first = file.tell()
        for name, place in header.items():
            if runs(name):
                at, end = place["data_offsets"]
                file.seek(first + at)
                for begin in range(at, end, len(block)):
                    file.write(block[: min(len(block), end - begin)])
        file.truncate(first + start)


def apart(work: Any, folder: Path, threads: int) -> list[tuple[str, str]]:
    """Rows of a measurement in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        rows: list[tuple[str, str]] = pool.apply(work, (folder, threads))
    return rows


def measure_load(folder: Path, threads: int) -> list[tuple[str, str]]:
    """Load all 32 layers and use none."""
    torch.set_num_threads(threads)
    before = memory()
    began = time.perf_counter()
    loaded = load_model(folder, dtype="bfloat16")
    seconds = time.perf_counter() - began
    after = memory()
    layers = len(loaded.adapter.layers)
    return [
        (f"time to load {layers} layers", f"{seconds:.1f} s"),
        ("resident memory before loading", gb(before["VmRSS"])),
        ("resident behind it", gb(after["VmRSS"])),
        ("of which anonymous, before and behind", f"{gb(before['RssAnon'])}, {gb(after['RssAnon'])}"),
        ("peak while it loads", gb(after["VmHWM"])),
    ]


def measure_run(folder: Path, threads: int) -> list[tuple[str, str]]:
    """Load the first layers, and answer one prompt with all visual tokens and with 64."""
    torch.set_num_threads(threads)
    loaded = load_model(folder, dtype="bfloat16", layers=RUN)
    inputs = made_up_inputs(loaded.adapter, 1, 60)
    arms = {"full": None, "zoo": Budget(count=64), "fastv": Budget(count=64)}
    chosen = {name: selectors.get(name) for name in arms}
    rows = []
    with torch.inference_mode():
        began = time.process_time()
        needs = frozenset().union(*(selector.needs for selector in chosen.values()))
        batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, needs))
        rows.append(("vision encoder and projector, CPU time", f"{time.process_time() - began:.1f} s"))
        for name, budget in arms.items():
            began = time.process_time()
            made = generate(loaded, batch, chosen[name], budget, ["0"], max_new_tokens=1, do_sample=False)
            spent = time.process_time() - began
            kept = made.prompt.kept_tokens if made.layers is None else made.layers.counts[0]
            rows.append((f"{RUN} layers, {name}: visual tokens {kept}", f"{spent:.1f} s"))
    return [*rows, ("peak memory of these runs", gb(memory()["VmHWM"]))]


def memory() -> dict[str, float]:
    """Resident memory of this process in bytes, by the names of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs: Sequence[Sequence[str]] = [
        line.split() for line in lines if line.startswith(("VmRSS", "VmHWM", "RssAnon"))
    ]
    return {name.rstrip(":"): 1024 * float(value) for name, value, *_ in pairs}


def gb(size: float) -> str:
    """In GB."""
    return f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
