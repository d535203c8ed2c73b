"""What every arm of an experiment thinks of the tokens: ranks, kept sets and their span, without any answer."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from zoo_exp.config.experiment import Arm, Experiment
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation.kept_set import above, effective_rank, overlap, spearman
from zoo_exp.evaluation.loading import load_configured
from zoo_exp.evaluation.rating import Ratings
from zoo_exp.evaluation.samples import Batch, Collate, Pending, make_loader
from zoo_exp.models.loading import LoadedModel
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.zoo import Zoo
from zoo_exp.tasks import data
from zoo_exp.tasks import get as get_task

FILE = "tokens.jsonl"
THRESHOLD = 0.5
SAMPLES = 50
BATCH = 4  # small, as the inputs of every encoder layer are held


@dataclass(frozen=True)
class Rated:
    """One arm on one image: its scores [N] (None for rules without), its kept tokens [K], its milliseconds."""

    arm: Arm
    scores: Tensor | None
    kept: Tensor
    milliseconds: float


def inspect(experiment: Experiment, console: Console, samples: int = SAMPLES) -> Path:
    """Rate and select on the first questions of every task, and write one row per question and arm.

    Ranks are compared with those of the first arm that rates tokens, once over all tokens and once over those
    that it rates above the threshold (see `kept_set.above`).

    Args:
        experiment: from `zoo_exp.config.compose`; its arms and tasks count, its limit does not.
        console: where progress goes.
        samples: questions per task.

    Returns:
        The file, `tokens.jsonl` in the run folder; it is replaced as a whole.

    Raises:
        InvalidValueError: no arm rates tokens.
        ZooExpError: whatever the user can mend.
    """
    arms = [(arm, chosen) for arm in experiment.arms if isinstance(chosen := arm.build(), Selector)]
    reference = next((arm.id for arm, chosen in arms if _rates(arm, chosen)), None)
    if reference is None:
        raise InvalidValueError(
            f"no arm of {experiment.name} rates tokens: add one, such as selector=[zoo,feature_norm]"
        )
    folder = experiment.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE}.tmp"
    started, written = time.perf_counter(), 0
    loaded = _load(experiment)
    with temporary.open("w", encoding="utf-8") as file, torch.inference_mode():
        for task in experiment.tasks:
            console.print(f"{experiment.name}: tokens of {task}", style="dim")
            for sample, image, number in _images(experiment, loaded, task, arms, samples):
                rated = _rate_all(experiment.seed, f"{task}/{sample}", image, number, arms)
                for row in _rows(rated, reference, image):
                    file.write(json.dumps({"task": task, "sample_id": sample, "image": number, **row}) + "\n")
                    written += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)
    console.print(f"{written} rows in {time.perf_counter() - started:.0f} s: {folder / FILE}", soft_wrap=True)
    return folder / FILE


def _rates(arm: Arm, selector: Selector) -> bool:
    """Whether the rule has an opinion of each token: known from its class, except for ZOO, whose fusion decides."""
    if isinstance(selector, Zoo):
        return selector.fusion != "diversity"
    return type(selector).score is not Selector.score and arm.selector != "random"


def _load(experiment: Experiment) -> LoadedModel:
    device = (
        "cuda" if torch.cuda.is_available() and experiment.trainer.accelerator in ("auto", "gpu") else None
    )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return load_configured(experiment.model, device)


def _images(
    experiment: Experiment,
    loaded: LoadedModel,
    name: str,
    arms: Sequence[tuple[Arm, Selector]],
    samples: int,
) -> Iterator[tuple[str, VisualTokens, int]]:
    """Sample id, visual tokens and number of every image of the task's first questions."""
    task = get_task(name)
    rows = data.load(task, experiment.data.root, samples)
    family = "embedded" if experiment.model.path == "embedded" else experiment.model.family
    pending = Pending(task, rows, range(min(samples, len(rows))))
    loader = make_loader(pending, Collate(task, loaded.processor, family), BATCH, experiment.data.workers)
    needs = frozenset().union(*(selector.needs for _, selector in arms))
    device = next(loaded.model.parameters()).device
    for batch in loader:
        assert isinstance(batch, Batch)
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()}
        for sample, images in zip(batch.samples, loaded.adapter.encode(inputs, needs), strict=True):
            for number, image in enumerate(images):
                yield sample.id, image, number


def _rate_all(
    seed: int, sample: str, image: VisualTokens, number: int, arms: Sequence[tuple[Arm, Selector]]
) -> list[Rated]:
    """What every arm does with the image. Draws are those of a run: of seed, sample, repetition and image.

    Arms that differ in budget or fusion only rate once, and each is told the whole of the rating's time.
    """

    def synchronise() -> None:
        if image.device.type == "cuda":
            torch.cuda.synchronize()

    ratings, rated = Ratings(synchronise), []
    for arm, selector in arms:
        generator = generator_for(seed, f"{sample}/{arm.seed_index}", number)
        rating = ratings.rate(selector, [image], [generator], arm.seed_index)
        started = time.perf_counter()
        kept = selector.select(image, arm.budget, rating.generators()[0], rating.scores[0]).indices
        synchronise()
        spent = rating.milliseconds + (time.perf_counter() - started) * 1e3
        rated.append(Rated(arm, rating.scores[0], kept, spent))
    return rated


def _rows(rated: Sequence[Rated], reference: str, image: VisualTokens) -> Iterator[dict[str, Any]]:
    first = next(one for one in rated if one.arm.id == reference)
    assert first.scores is not None  # it was chosen because it rates
    high = above(first.scores, THRESHOLD)
    for one in rated:
        same_budget = next(
            (o for o in rated if o.arm.budget == one.arm.budget and o.arm.selector == first.arm.selector
             and o.arm.options == first.arm.options), first,
        )  # fmt: skip
        scores = one.scores
        yield {
            "arm": one.arm.label,
            "arm_id": one.arm.id,
            "selector": one.arm.selector,
            "options": dict(one.arm.options),
            "budget": None if one.arm.budget is None else str(one.arm.budget),
            "reference": first.arm.label,
            "spearman": None if scores is None else _finite(spearman(first.scores, scores)),
            "spearman_above": None if scores is None else _finite(spearman(first.scores[high], scores[high])),
            "tokens_above": len(high),
            "overlap": _finite(overlap(same_budget.kept, one.kept)),
            "effective_rank": round(effective_rank(image.projected[one.kept]), 4),
            "kept_tokens": len(one.kept),
            "n_visual": image.count,
            "select_ms": round(one.milliseconds, 3),
        }


def _finite(value: float) -> float | None:
    """JSON has no nan."""
    return None if value != value else round(value, 6)
