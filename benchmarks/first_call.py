"""What a model's first call of the closed form and of the diagonal costs: with an empty cache, and afterwards.

    python benchmarks/first_call.py            # the projectors of LLaVA-7B and Qwen2.5-VL-7B, random weights
    python benchmarks/first_call.py --quick    # a small projector, seconds

Both times are of one run, on one CPU thread, in processor time: the first call of a new process computes the kernel and
writes it to the user's cache folder (here a temporary one), that of the next process reads it. Models as in
`models.kernel_store`: hash of the weights and checksum of the file included.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from selection import make_mlp

from zoo_exp.core.closed_form import PatchMerger, closed_form
from zoo_exp.core.sensitivity import MLP
from zoo_exp.models import kernel_store

SIZES = {"LLaVA-1.5-7B, LLaVA-NeXT-7B": (1024, 4096, 4096, 1), "Qwen2.5-VL-7B": (5120, 5120, 3584, 4)}


def made_up(width: int, hidden: int, out: int, patches: int) -> MLP | PatchMerger:
    """A new projector object with the same random weights at every call."""
    if patches == 1 and hidden == out:
        mlp = make_mlp(width, out, torch.device("cpu"), "flat")
    else:
        g = torch.Generator().manual_seed(0)
        w1 = torch.randn(hidden, width, generator=g) / width**0.5
        w2 = torch.randn(out, hidden, generator=g) / hidden**0.5
        mlp = MLP(w1, torch.zeros(hidden), w2, torch.zeros(out))
    return mlp if patches == 1 else PatchMerger(torch.ones(width // patches), mlp)


def seconds(projector: Any, width: int) -> float:
    """Processor seconds of the closed form of one token."""
    x = torch.ones(1, width)
    started = time.process_time()
    closed_form(x, kernel_store.kept_on_disk(projector))
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        if args.quick:
            kernel_store.SMALLEST = 0
        for name, (width, hidden, out, patches) in (
            {"small": (64, 256, 256, 1)} if args.quick else SIZES
        ).items():
            first, second = (seconds(made_up(width, hidden, out, patches), width) for _ in range(2))
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 1e6
            rows.append(
                {"projector": name, "first s": first, "afterwards s": second, "ratio": first / second}
            )
            print(f"{name:28s} first {first:6.2f} s   afterwards {second:6.3f} s   {first / second:5.1f}x")
            print(f"{'':28s} files so far {size:.0f} MB")
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
