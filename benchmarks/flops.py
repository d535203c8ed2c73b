"""FLOPs for the paper's models and budgets, by our cost model and by the paper's formula; needs no model or download.

    python benchmarks/flops.py                                  # prints the table
    python benchmarks/flops.py --out experiments/efficiency     # and writes flops.csv there

FLOPs of one response of 16 tokens to 60 text tokens and one image. LLaVA-NeXT: an image of 672 x 672 with five tiles,
without newline tokens, as in the paper's count of 2880. The variants of the selector compute the same quantity at
different cost: `released` perturbs every token along every direction at the input of the projector.
"""

import argparse
import csv
import io
from pathlib import Path
from typing import Any

import torch

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.sensitivity import MLP
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.measure.cost_model import FLOPS_COLUMNS, REASONS, CostModel, PaperCosts
from zoo_exp.models.families import architecture

MODELS = {
    "llava-hf/llava-1.5-7b-hf": (1, (192, 128, 64)),
    "llava-hf/llava-1.5-13b-hf": (1, (192, 128, 64)),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (5, (640, 320, 160)),
}
"""Model -> tiles of an image, budgets."""
KINDS: dict[str, dict[str, Any]] = {
    "released": {"dtype": "float16"},
    "released, low rank 128": {"dtype": "float16", "projector": "low_rank"},
    "shared directions": {},
    "low rank 128": {"projector": "low_rank"},
    "closed form": {"estimator": "closed_form"},
}
TEXT, NEW_TOKENS, PER_TILE = 60, 16, 576


def rows() -> list[dict[str, Any]]:
    """One row per model, budget and kind of selector, in TFLOP."""
    found = []
    for name, (tiles, budgets) in MODELS.items():
        costs, paper = CostModel(architecture(name)), PaperCosts(architecture(name))
        image = meta_image(tiles, costs.text.hidden_size)
        full = costs.stages([image], image.count + TEXT, NEW_TOKENS)
        paper_full = paper.answer(image.count, image.count + TEXT)
        found.append(row(name, "full", image.count, full, full, paper_full))
        for budget in budgets:
            for kind, options in KINDS.items():
                zoo = selectors.get("zoo", **options)
                stages = costs.stages(
                    [image], budget + TEXT, NEW_TOKENS, zoo, Budget(count=budget // tiles, per="tile")
                )
                formula = paper.answer(image.count, budget + TEXT, zoo)
                found.append(row(name, f"zoo, {kind}", budget, stages, full, formula))
    return found


def meta_image(tiles: int, width: int, vision_width: int = 1024) -> VisualTokens:
    """Visual tokens without values: their shapes are all that costs depend on."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    n = tiles * PER_TILE
    return VisualTokens(
        projected=empty(n, width),
        features=empty(n, vision_width),
        mlp=MLP(empty(width, vision_width), empty(width), empty(width, width), empty(width)),
        tile=torch.arange(n) // PER_TILE if tiles > 1 else None,
    )


def row(model: str, arm: str, kept: int, stages: Any, full: Any, paper: int) -> dict[str, Any]:
    """A line of the table."""
    tera = {
        column.removesuffix("_tflop"): f"{getattr(stages, name) / 1e12:.4g}"
        for column, name in FLOPS_COLUMNS.items()
    }
    saved = full.prefill - stages.prefill
    return {
        "model": model.split("/")[1],
        "arm": arm,
        "kept": kept,
        **tera,
        "share of full": f"{stages.total / full.total:.3f}",
        "selector / saved prefill": f"{stages.select / saved:.3f}" if saved else "",
        "paper's formula": f"{paper / 1e12:.4g}",
    }


def main() -> None:
    """Print, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write flops.csv to this folder")
    args = parser.parse_args()
    lines = rows()
    heads = list(lines[0])
    print(" ".join(f"{head:>24s}" if head in ("model", "arm") else f"{head:>9s}" for head in heads))
    for line in lines:
        print(
            " ".join(
                f"{line[head]!s:>24s}" if head in ("model", "arm") else f"{line[head]!s:>9s}"
                for head in heads
            )
        )
    print("TFLOP, 1 multiply-add = 2. The paper's formula differs: " + "; ".join(REASONS) + ".")
    if args.out:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, heads, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        (args.out / "flops.csv").write_text(stream.getvalue())


if __name__ == "__main__":
    main()
