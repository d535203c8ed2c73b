"""Difficulty of world 2 by budget: accuracy of a model under selectors and controls, and coverage.

    python benchmarks/embedded_world2.py embedded --rows 100 --budgets 8 16
    python benchmarks/embedded_world2.py embedded_next --rows 50 --budgets 2/tile 8/tile --original

Answers come from the packed forward pass (first token, greedy), selections from the package's own selectors on the
stock model's features. Coverage is the share of things with a kept token. Differences are paired, with 95 %
bootstrap intervals over scenes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.embedded.world2.layout import BASE_SIDE, MIN_OVERLAP, PATCH, Item, Scene2
from zoo_exp.embedded.world2.learners import Learner, LlavaLearner
from zoo_exp.embedded.world2.plan import plan_for
from zoo_exp.embedded.world2.qwen import QwenLearner
from zoo_exp.embedded.world2.scores import Numbered, Scores, keep_all, keep_none, measure, summary
from zoo_exp.embedded.world2.tiles import CELLS, NextLearner
from zoo_exp.models import answering
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import LoadedModel, load_model

SELECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "diversity": ("divprune", {}),
    "zoo": ("zoo", {}),
    "shuffled": ("zoo", {"control": "shuffled"}),
    "inverted": ("zoo", {"control": "inverted"}),
}
LEARNERS = {"llava": LlavaLearner, "llava_next": NextLearner, "qwen2_5_vl": QwenLearner}
MODELS = {"llava": "embedded", "llava_next": "embedded_next", "qwen2_5_vl": "embedded_qwen"}
DRAWS = 2000


class Selecting:
    """Arms from the package's selectors; the stock model's features of a batch are computed once.

    Args:
        loaded: the model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.covered: dict[str, list[float]] = {}
        self._batch: Numbered | None = None
        self._tokens: Any = None
        chosen = [selectors.get(name, **options) for name, options in SELECTORS.values()]
        self.needs = frozenset().union(*(selector.needs for selector in chosen))

    def tokens(self, batch: Numbered) -> Any:
        """Visual tokens of a batch, by row and image."""
        if self._batch is not batch:
            chats = [user_turn([Image.fromarray(scene.pixels), "Is there a circle?"]) for _, scene in batch]
            inputs = chat_inputs(self.loaded.processor, chats)
            self._tokens, self._batch = self.loaded.adapter.encode(inputs, self.needs), batch
        return self._tokens

    def arm(self, label: str, name: str, options: dict[str, Any], budget: Budget, seed: int) -> Any:
        """An arm of `measure`; the coverage of its selections is noted under `label`."""
        selector = selectors.get(name, **options)

        def keep(batch: Numbered, visual: torch.Tensor) -> torch.Tensor:
            names = [str(index) for index, _ in batch]
            found = answering.select(selector, self.tokens(batch), budget, names, seed=seed).selections
            kept = [row[0].indices for row in found]
            shares = self.covered.setdefault(label, [])
            shares += [coverage(scene, set(k.tolist())) for (_, scene), k in zip(batch, kept, strict=True)]
            return torch.stack(kept)

        return keep


def coverage(scene: Scene2, kept: set[int]) -> float:
    """Share of a scene's things with a kept token, in the base view or in the tiles."""
    tiled = scene.height == scene.width == 2 * BASE_SIDE
    hits = [bool(kept & slots(scene, thing, tiled)) for thing in scene.things]
    return sum(hits) / len(hits)


def slots(scene: Scene2, thing: Item, tiled: bool) -> set[int]:
    """Numbers of the visual tokens that show a thing; at least the one that shows the most of it."""
    cols = scene.width // PATCH
    found = set(_cells(thing, 1.0, 0, cols + 1 if tiled else cols, CELLS * CELLS if tiled else 0))
    return found | set(_cells(thing, 2.0, 0, CELLS, 0)) if tiled else found


def _cells(thing: Item, scale: float, first: int, stride: int, offset: int) -> list[int]:
    top, left, bottom, right = (value / scale for value in thing.box)
    areas = {}
    for row in range(int(top // PATCH), int((bottom - 1e-6) // PATCH) + 1):
        for col in range(int(left // PATCH), int((right - 1e-6) // PATCH) + 1):
            tall = min(bottom, (row + 1) * PATCH) - max(top, row * PATCH)
            wide = min(right, (col + 1) * PATCH) - max(left, col * PATCH)
            areas[offset + first + row * stride + col] = tall * wide
    most = max(areas, key=lambda slot: areas[slot])
    return [slot for slot, area in areas.items() if area >= MIN_OVERLAP / scale**2 or slot == most]


def paired(one: Scores, other: Scores) -> tuple[float, float, float]:
    """Difference of two arms' averages over families in points, with its 95 % bootstrap interval over scenes."""
    scenes, place = np.unique(np.array(one.scene), return_inverse=True)
    families = sorted(set(one.family))
    sums = np.zeros((len(scenes), len(families), 3))
    for row, family, a, b in zip(place, one.family, one.right, other.right, strict=True):
        sums[row, families.index(family)] += (a, b, 1)
    generator = np.random.default_rng(0)
    draws = np.array([sums[generator.integers(0, len(scenes), len(scenes))].sum(0) for _ in range(DRAWS)])

    def difference(total: np.ndarray) -> np.ndarray:
        return 100 * ((total[..., 0] - total[..., 1]) / total[..., 2].clip(min=1)).mean(-1)

    low, high = np.percentile(difference(draws), [2.5, 97.5])
    return float(difference(sums.sum(0))), float(low), float(high)


def tables(result: dict[str, Scores], covered: dict[str, list[float]], budgets: Sequence[str]) -> list[Table]:
    """Accuracy by family, and what the controls say at each budget."""
    families = list(next(iter(result.values())).by_family())
    accuracy = Table("arm", "average", "retained", "coverage", *families, title="right answers in percent")
    full = result["full"].average()
    for name, scores in result.items():
        shares = [f"{100 * share:.1f}" for share, _ in scores.by_family().values()]
        things = f"{100 * float(np.mean(covered[name])):.1f}" if name in covered else ""
        average = scores.average()
        accuracy.add_row(name, f"{100 * average:.1f}", f"{100 * average / full:.1f}", things, *shares)
    differences = Table("budget", "arms", "difference in points", title="paired, 95 %")
    for budget in budgets:
        for one, other in (
            ("zoo", "diversity"),
            ("zoo", "shuffled"),
            ("zoo", "inverted"),
            ("shuffled", "diversity"),
        ):
            value, low, high = paired(result[f"{one} @{budget}"], result[f"{other} @{budget}"])
            differences.add_row(budget, f"{one} - {other}", f"{value:+.1f} [{low:+.1f}, {high:+.1f}]")
    return [accuracy, differences]


def learner_of(loaded: LoadedModel) -> Learner:
    """The loaded model, as the packed forward wants it."""
    family = loaded.model.config.model_type
    made: Learner = LEARNERS[family](plan_for(MODELS[family]), loaded.model)
    return made


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="embedded, embedded_next, embedded_qwen, or a folder of a saved model")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, default=100, help="questions per family")
    parser.add_argument("--budgets", nargs="+", default=["8", "16"])
    parser.add_argument("--original", action="store_true", help="kept tokens keep their positions")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(args.model, dtype="float32")
    selecting = Selecting(loaded)
    arms: dict[str, Any] = {"full": keep_all, "blind": keep_none}
    for text in args.budgets:
        budget = Budget.parse(text)
        for label, (name, options) in SELECTORS.items():
            arms[f"{label} @{text}"] = selecting.arm(f"{label} @{text}", name, options, budget, 0)
    console = Console(width=200)
    with Progress(console=console, transient=True) as progress, torch.inference_mode():
        bar = progress.add_task("questions", total=9 * args.rows)
        result = measure(
            learner_of(loaded),
            arms,
            args.split,
            args.rows,
            original=args.original,
            advance=lambda done: progress.advance(bar, done),
        )
    for table in tables(result, selecting.covered, args.budgets):
        console.print(table)
    if args.out:
        covered = {name: float(np.mean(shares)) for name, shares in selecting.covered.items()}
        args.out.write_text(json.dumps({"accuracy": summary(result), "coverage": covered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
