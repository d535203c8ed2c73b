"""Cost of whole selectors at LLaVA's sizes, and of ZOO-Prune as a multiple of DivPrune.

    python benchmarks/whole_selectors.py            # 576 -> 64; five tiles: 2928 -> 160, by image and by tile
    python benchmarks/whole_selectors.py --quick    # small sizes, seconds

Everything between the projector's output and the kept indices is timed: checks, sensitivity, allocation to tiles and
greedy steps. Weights and features are random. The projector's hidden layer is given to the diagonal form, as adapters
capture it; the kernel of the closed form is computed before. On a CPU: float32, one thread, and the thread's own
processor time (median), which other work on the machine disturbs little.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from selection import make_features, make_mlp

from zoo_exp import selectors
from zoo_exp.core.diagonal import first_layer
from zoo_exp.core.tokens import VisualTokens

ARMS = {
    "divprune": selectors.get("divprune"),
    "zoo, diagonal": selectors.get("zoo", estimator="diagonal"),
    "zoo, closed form": selectors.get("zoo", estimator="closed_form"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="Dv 128, D 256: for a look, not for numbers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    width, out = (128, 256) if args.quick else (1024, 4096)
    mlp = make_mlp(width, out, device, "falling")
    rows = []
    for side, tiles, budget in ((24, 1, "64"), (24, 5, "160"), (24, 5, "32/tile")):
        tokens = made_up_tokens(mlp, side, tiles, width, device)
        rows += measured(tokens, budget, args.repeats)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {name}\n")
    print(f"{'case':22s} {'selector':18s} {'ms':>8s} {'of DivPrune':>12s}")
    for row in rows:
        print(f"{row['case']:22s} {row['what']:18s} {row['ms']:8.1f} {row['of DivPrune']:11.2f}x")
    if args.json:
        content = {"device": name, "torch": torch.__version__, "rows": rows}
        args.json.write_text(json.dumps(content, indent=1) + "\n")


def made_up_tokens(mlp: Any, side: int, tiles: int, width: int, device: torch.device) -> VisualTokens:
    """An image of random features; with tiles, a base tile and a grid of 2 x 2 with a newline after every row."""
    tile = None
    if tiles > 1:
        line = torch.arange(2).repeat_interleave(side)
        grid = [torch.cat([line + 1 + 2 * (row // side), torch.tensor([-1])]) for row in range(2 * side)]
        tile = torch.cat([torch.zeros(side * side, dtype=torch.int64), *grid]).to(device)
    x = make_features(side * side if tile is None else len(tile), width, device)
    return VisualTokens(
        projected=mlp(x.float()).to(x.dtype),
        features=x,
        preactivation=first_layer(x.float(), mlp),
        project=mlp,
        mlp=mlp,
        tile=tile,
    )


def measured(tokens: VisualTokens, budget: str, repeats: int) -> list[dict[str, Any]]:
    """One row per selector."""
    times = {
        what: seconds(lambda one=one: one.select(tokens, budget, torch.Generator().manual_seed(0)), repeats)
        for what, one in ARMS.items()
    }
    return [
        {
            "case": f"N={tokens.count} K={budget}",
            "what": what,
            "ms": 1000 * took,
            "of DivPrune": took / times["divprune"],
        }
        for what, took in times.items()
    ]


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median seconds after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter if torch.cuda.is_available() else time.process_time
        began = now()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(now() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
