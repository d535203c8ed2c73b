"""The selector's share of the pruned time to first token, on a slice of the real LLaVA-1.5-7B, on one machine.

    python benchmarks/prefill_slice.py                  # 4 of 32 decoder layers, whole tower and projector, K 64
    python benchmarks/prefill_slice.py --layers 1 --repeats 1

Real shapes, random weights (no download), float32 on a CPU and bfloat16 on a GPU, one prompt of 576 visual tokens and
60 words. A slice makes the share of the selector larger, not smaller: the whole model has 32 layers to pay for it.
The released algorithm runs as published, once, as it takes minutes: all M = 64 directions perturb all tokens in front
of the whole projector, and the selection compares all pairs by broadcasting (here in blocks of rows, since the
published [N, N, D] temporary takes 5.4 GB; the arithmetic is the same).
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.fusion import min_max
from zoo_exp.core.sensitivity import draw_directions
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.measure import figure, table
from zoo_exp.measure.bench import Plan, run_bench
from zoo_exp.measure.inputs import made_up_inputs
from zoo_exp.models.loading import load_model
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.fastv import FastV

MODEL = "llava-hf/llava-1.5-7b-hf"
STEP, DIRECTIONS, AT_ONCE = 0.01, 64, 8


@dataclass(frozen=True)
class Released(Selector):
    """ZOO-Prune as its code does it (spec: algorithms 1.1, 1.2), in the arithmetic of the features."""

    name: ClassVar[str] = "released"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"features", "projector"})

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Algorithm 1: every direction perturbs every token."""
        x, project = tokens.features, tokens.project
        assert x is not None
        assert project is not None
        total = x.new_zeros(len(x))
        for u in draw_directions(DIRECTIONS, x.shape[1], generator, x.device).to(x.dtype).split(AT_ONCE):
            change = project(x + STEP * u[:, None]) - project(x - STEP * u[:, None])
            total += (change.norm(dim=-1) / (2 * STEP)).sum(dim=0)
        return total / DIRECTIONS

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """The published loop: the minimum over all picks, again at every step."""
        z = tokens.projected
        blocks = [1 - F.cosine_similarity(rows[:, None], z[None], dim=-1) for rows in z.split(32)]
        assert scores is not None
        distance, weights = torch.cat(blocks), min_max(scores)
        picks = torch.empty(k, dtype=torch.int64, device=z.device)
        for step in range(k):
            score = weights.clone() if step == 0 else distance[picks[:step]].amin(dim=0) * weights
            score[picks[:step]] = float("-inf")
            picks[step] = score.argmax()
        return picks


@dataclass(frozen=True)
class Arm:
    """A selector under a label."""

    label: str
    rule: Any
    budget: Budget | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selector(self) -> str:
        """Its name."""
        return str(self.rule.name)

    def build(self) -> Any:
        """The selector itself."""
        return self.rule


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4, help="decoder layers, 1 to 32")
    parser.add_argument("--budget", type=int, default=64, help="visual tokens that stay, of 576")
    parser.add_argument("--text", type=int, default=60, help="words of the prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write table and picture to this folder")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.set_num_threads(args.threads)
    loaded = load_model(
        MODEL,
        weights="random",
        layers=args.layers,
        dtype="bfloat16" if cuda else "float32",
        device="cuda" if cuda else "cpu",
    )
    inputs = made_up_inputs(loaded.adapter, 1, args.text)
    budget = Budget(count=args.budget)
    zoo = {
        "zoo closed form": {"estimator": "closed_form"},
        "zoo low rank 128": {"projector": "low_rank"},
        "zoo M=64, shared directions": {},
    }
    arms = [
        Arm("full", selectors.get("full")),
        Arm("divprune", selectors.get("divprune"), budget),
        *(Arm(label, selectors.get("zoo", **options), budget, options) for label, options in zoo.items()),
    ]
    if args.layers > 2:
        arms.insert(1, Arm("fastv", FastV(), budget))
    plan = Plan(new_tokens=1, repeats=args.repeats, warmup=0)
    rows = run_bench(loaded, arms, lambda _: lambda: inputs, plan, say)
    released = [Arm("as released", Released(), budget)]
    once = Plan(new_tokens=1, repeats=1, warmup=0)
    rows += run_bench(loaded, released, lambda _: lambda: inputs, once, say, inspect=cuda)
    text = table.markdown(rows)
    print(text)
    for row in rows:
        share = 100 * row.selector_share.p50
        print(f"{row.arm:30s} selector {share:6.2f} % of the time to first token")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "prefill_slice.md").write_text(text)
        (args.out / "prefill_slice.csv").write_text(table.csv_text(rows))
        figure.stage_bars(rows, args.out / "prefill_slice.png")


def say(line: str) -> None:
    """Show progress."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
