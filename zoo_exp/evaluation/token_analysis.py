"""Token scores and kept sets across the arms of an experiment, without generating responses."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from zoo_exp.config.experiment import Arm, Experiment
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation.kept_set import above, effective_rank, overlap, spearman
from zoo_exp.evaluation.sample_batches import Collate, Pending, make_loader, opened
from zoo_exp.evaluation.sources import load_configured
from zoo_exp.files import encode, replaced
from zoo_exp.models.answering import Ratings, select
from zoo_exp.models.chat import to_device
from zoo_exp.models.loading import LoadedModel
from zoo_exp.runs.folder import tokens as tokens_file
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.zoo import Zoo
from zoo_exp.tasks import data
from zoo_exp.tasks import get as get_task
from zoo_exp.threads import use_threads

THRESHOLD = 0.5
SAMPLES = 50
BATCH = 4  # small, because the inputs of every encoder layer stay in memory


@dataclass(frozen=True)
class Rated:
    """One arm on one image: scores [N] (None for selectors without), kept tokens [K], milliseconds."""

    arm: Arm
    scores: Tensor | None
    kept: Tensor
    milliseconds: float


def inspect(experiment: Experiment, console: Console, samples: int = SAMPLES) -> Path:
    """Score and select on the first questions of every task, and write one row per image and arm.

    Rank correlations are with the first arm that scores tokens: over all tokens, and over the tokens that this arm
    scores above the threshold (see `kept_set.above`).

    Args:
        experiment: from `zoo_exp.config.compose`; its limit is ignored.
        console: receives progress.
        samples: questions per task.

    Returns:
        The file `tokens.jsonl` in the run folder; an earlier one is replaced.

    Raises:
        InvalidValueError: no arm scores tokens.
        ZooExpError: any error the user can correct.
    """
    arms = [(arm, chosen) for arm in experiment.arms if isinstance(chosen := arm.build(), Selector)]
    reference = next((arm.id for arm, chosen in arms if _rates(arm, chosen)), None)
    if reference is None:
        raise InvalidValueError(
            f"no arm of {experiment.name} scores tokens: add one, such as selector=[zoo,feature_norm]"
        )
    folder = experiment.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    path = tokens_file(folder)
    started, written = time.perf_counter(), 0
    loaded = _load(experiment)
    with replaced(path) as file, torch.inference_mode():
        for task in experiment.tasks:
            console.print(f"{experiment.name}: tokens of {task}", style="dim", markup=False)
            for sample, images in _images(experiment, loaded, task, arms, samples):
                rated = _rate_all(experiment.seed, f"{task}/{sample}", images, arms)
                for number, (image, arms_of_image) in enumerate(zip(images, rated, strict=True)):
                    for row in _rows(arms_of_image, reference, image):
                        line = {"task": task, "sample_id": sample, "image": number, **row}
                        file.write(encode(line))
                        written += 1
    console.print(
        f"{written} rows in {time.perf_counter() - started:.0f} s: {path}", soft_wrap=True, markup=False
    )
    return path


def _rates(arm: Arm, selector: Selector) -> bool:
    """Whether the selector scores each token: known from its class, except for ZOO, where it depends on the fusion."""
    if isinstance(selector, Zoo):
        return selector.fusion != "diversity"
    return type(selector).score is not Selector.score and arm.selector != "random"


def _load(experiment: Experiment) -> LoadedModel:
    wanted = experiment.trainer.accelerator in ("auto", "gpu", "cuda")
    device = "cuda" if wanted and torch.cuda.is_available() else "cpu"
    use_threads(experiment.trainer.threads)
    return load_configured(experiment.model, device)


def _images(
    experiment: Experiment,
    loaded: LoadedModel,
    name: str,
    arms: Sequence[tuple[Arm, Selector]],
    samples: int,
) -> Iterator[tuple[str, list[VisualTokens]]]:
    """Sample id and visual tokens of each image of the task's first questions."""
    task = get_task(name)
    rows = data.load(task, experiment.data.root, samples, fewer=True)
    pending = Pending(task, rows, range(min(samples, len(rows))))
    collate = Collate(task, loaded.processor, experiment.model.prompt_family)
    loader = make_loader(pending, collate, BATCH, experiment.data.workers)
    needs = frozenset().union(*(selector.captures for _, selector in arms))
    device = next(loaded.model.parameters()).device
    for batch in map(opened, loader):
        tokens = loaded.adapter.encode(to_device(batch.inputs, device), needs)
        for sample, images in zip(batch.samples, tokens, strict=True):
            yield sample.id, images


def _rate_all(
    seed: int, sample: str, images: Sequence[VisualTokens], arms: Sequence[tuple[Arm, Selector]]
) -> list[list[Rated]]:
    """Scores and kept sets of every arm, by image. Seeds are those of a run.

    Arms that differ in budget or fusion only share their scores; each is charged the full scoring time.
    """

    def synchronise() -> None:
        if images and images[0].device.type == "cuda":
            torch.cuda.synchronize()

    ratings = Ratings(synchronise)
    rated: list[list[Rated]] = [[] for _ in images]
    for arm, selector in arms:
        name = f"{sample}/{arm.seed_index}"
        selected = select(selector, [images], arm.budget, [name], seed=seed, ratings=ratings)
        spent = selected.milliseconds / max(1, len(images))
        for mine, scores, selection in zip(rated, selected.scores[0], selected.selections[0], strict=True):
            mine.append(Rated(arm, scores, selection.indices, spent))
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
    """JSON has no nan: None instead."""
    return None if value != value else round(value, 6)
