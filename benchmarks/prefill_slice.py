"""The selector's share of the pruned time to first token, on a slice of the real LLaVA-1.5-7B, on one machine.

    python benchmarks/prefill_slice.py                  # 4 of 32 decoder layers, whole encoder and projector, K 64
    python benchmarks/prefill_slice.py --layers 1 --repeats 1
    python benchmarks/prefill_slice.py --model next --budget 32/tile --without-slow    # LLaVA-NeXT, 2928 -> 160

Real shapes, random weights (no download), float32 on a CPU and bfloat16 on a GPU, one prompt of 576 visual tokens and
60 words. On a slice, the share of the selector is larger than on the whole model with its 32 layers. The released
algorithm runs as published: all M = 64 directions perturb all tokens at the input of the projector, and the selection
compares all pairs by broadcasting (here in blocks of rows, because the published [N, N, D] temporary takes 5.4 GB; the
results are the same). On a CPU it runs once, like finite differences with shared directions, because they take minutes.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.closed_form import closed_form
from zoo_exp.core.fusion import min_max
from zoo_exp.core.sensitivity import draw_directions
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.measure.bench import Plan, run_bench
from zoo_exp.measure.inputs import made_up_inputs
from zoo_exp.measure.stages import FIRST_TOKEN
from zoo_exp.measure.timing import CLOCKS
from zoo_exp.models.loading import load_model
from zoo_exp.report.bench_document import stage_bars
from zoo_exp.report.renderers import csv_text, markdown
from zoo_exp.report.tables_bench import bench_columns, bench_table
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.fastv import FastV

MODELS = {"llava": "llava-hf/llava-1.5-7b-hf", "next": "llava-hf/llava-v1.6-vicuna-7b-hf"}
STEP, DIRECTIONS, AT_ONCE = 0.01, 64, 8


@dataclass(frozen=True)
class Released(Selector):
    """ZOO-Prune as in the released code, in the dtype of the features."""

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

    def flops(self, tokens: VisualTokens, budget: Any) -> int:
        """Two passes of every token through the whole projector for each direction."""
        mlp: Any = tokens.mlp
        return 4 * DIRECTIONS * tokens.count * (mlp.w1.numel() + mlp.w2.numel())

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


def zoo(label: str, budget: Budget, **options: Any) -> Arm:
    """An arm of ZOO-Prune."""
    return Arm(label, selectors.get("zoo", **options), budget, options)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4, help="decoder layers, 1 to 32")
    parser.add_argument("--model", choices=sorted(MODELS), default="llava")
    parser.add_argument("--budget", default="64", help="visual tokens that stay: 64, or 32/tile")
    parser.add_argument("--text", type=int, default=60, help="words of the prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", default="wall", choices=CLOCKS, help="process: one thread's own time, on a shared machine"
    )
    parser.add_argument(
        "--without-slow", action="store_true", help="without finite differences and the release"
    )
    parser.add_argument("--out", type=Path, help="also write table and figure to this folder")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.set_num_threads(args.threads)
    loaded = load_model(
        MODELS[args.model],
        weights="random",
        layers=args.layers,
        dtype="bfloat16" if cuda else "float32",
        device="cuda" if cuda else "cpu",
    )
    inputs = made_up_inputs(loaded.adapter, 1, args.text)
    budget = Budget.parse(int(args.budget) if args.budget.isdigit() else args.budget)
    often = [
        Arm("full", selectors.get("full")),
        Arm("divprune", selectors.get("divprune"), budget),
        zoo("zoo diagonal", budget, estimator="diagonal"),
        zoo("zoo closed form", budget, estimator="closed_form"),
    ]
    once = [zoo("zoo M=64, shared directions", budget), Arm("zoo as released", Released(), budget)]
    once = [] if args.without_slow else once
    if cuda:
        often += [Arm("fastv", FastV(), budget), zoo("zoo low rank 128", budget, projector="low_rank"), *once]
    mlp: Any = loaded.adapter.weights.mlp()  # type: ignore[attr-defined]
    now = time.process_time if args.clock == "process" else time.perf_counter
    began = now()
    closed_form(torch.zeros(1, mlp.width, device=mlp.w1.device), mlp)
    say(f"kernel of the closed form, once per model: {now() - began:.1f} s")
    # On a CPU a pass takes half a minute, so none is spent on warming up or counting: FLOPs follow from the shapes.
    plan = Plan(new_tokens=1, repeats=args.repeats, warmup=int(cuda), clock=args.clock)
    rows = run_bench(loaded, often, lambda _: lambda: inputs, plan, say, inspect=cuda)
    if once and not cuda:
        plan = replace(plan, repeats=1)
        rows += run_bench(loaded, once, lambda _: lambda: inputs, plan, say, inspect=False)
    text = markdown(bench_table(rows), heading="") + "\n"
    print(text)
    for row in rows:
        share = 100 * row.selector_share.p50
        parts = "  ".join(f"{stage} {row.times(stage).p50:.0f}" for stage in FIRST_TOKEN)
        print(f"{row.arm:30s} selector {share:6.2f} % of the time to first token; ms: {parts}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        name = "prefill_slice" if args.model == "llava" else f"prefill_slice_{args.model}"
        (args.out / f"{name}.md").write_text(text)
        (args.out / f"{name}.csv").write_text(csv_text(bench_columns(rows)))
        stage_bars(rows, args.out / f"{name}.png")


def say(line: str) -> None:
    """Show progress."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
