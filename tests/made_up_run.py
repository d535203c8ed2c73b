"""A small made-up run: six arms (two are seeds of one selector), three tasks, questions that share images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zoo_exp import tasks
from zoo_exp.tasks import Task

ARMS: list[dict[str, Any]] = [
    {"arm": "full", "selector": "full", "options": {}, "budget": None, "skill": 0.95},
    {
        "arm": "zoo multiply @16",
        "selector": "zoo",
        "options": {"fusion": "multiply"},
        "budget": "16",
        "skill": 0.8,
    },
    {"arm": "zoo none @16", "selector": "zoo", "options": {"fusion": "none"}, "budget": "16", "skill": 0.65},
    {
        "arm": "random @16",
        "selector": "random",
        "options": {},
        "budget": "16",
        "seed_index": 0,
        "skill": 0.55,
    },
    {
        "arm": "random @16",
        "selector": "random",
        "options": {},
        "budget": "16",
        "seed_index": 1,
        "skill": 0.55,
    },
    {"arm": "blind", "selector": "blind", "options": {}, "budget": None, "skill": 0.35},
]
TASKS = ["embedded_gqa", "embedded_pope", "embedded_vqav2"]
KEPT = {"full": 144, "zoo": 16, "random": 16, "blind": 0}


def arms() -> list[dict[str, Any]]:
    """The arms as a runner hands them over."""
    return [{"seed_index": 0, **arm, "arm_id": f"{arm['arm']}-{arm.get('seed_index', 0)}"} for arm in ARMS]


def made_up_records(images: int = 40, per_image: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of every arm to `images * per_image` questions a task."""
    generator = np.random.default_rng(seed)
    rows = []
    for task in TASKS:
        for image in range(images):
            luck = generator.normal(0, 0.1)
            for question in range(per_image):
                truth = bool(generator.random() < 0.5)
                hard = generator.random()
                for arm in arms():
                    own = 0.7 * hard + 0.3 * generator.random()
                    right = bool(own < arm["skill"] + luck)
                    score = 1.0 if right else 0.3 * (task == "embedded_vqav2")
                    rows.append(
                        {
                            key: arm[key]
                            for key in ("arm", "arm_id", "selector", "options", "budget", "seed_index")
                        }
                        | {
                            "task": task,
                            "sample_id": f"{image:03d}-{question}",
                            "image_id": f"image-{image:03d}",
                            "question": "is there a red square?",
                            "reference": "yes" if truth else "no",
                            "response": ("yes" if truth == right else "no"),
                            "score": score,
                            "parts": {"score": score, "said": truth == right, "gold": truth}
                            | {"prediction": "yes" if truth == right else "no", "category": "random"}
                            | {"ground_truth": "yes" if truth else "no"},
                            "kept_tokens": KEPT[arm["selector"]],
                            "n_visual": 144,
                            "cell": f"cell of {task}",
                        }
                    )
    return rows


def manifest(name: str = "made_up", /, **model: Any) -> dict[str, Any]:
    """What a run writes about itself; `model` replaces fields of the model's configuration."""
    fields = {"name": "embedded", "path": "embedded", "revision": None, "dtype": "float32"}
    plain = ("arm", "arm_id", "selector", "options", "budget", "seed_index")
    return {
        "experiment": {
            "name": name,
            "question": "Which made-up arm is best?",
            "id": "0123456789ab",
            "overrides": [f"+exp={name}", "out=/somewhere/secret"],
            "seed": 0,
            "limit": 120,
            "out": "/somewhere/secret",
            "model": {**fields, "attention": "sdpa", "weights": "pretrained", "layers": None, **model},
            "tasks": TASKS,
            "arms": [{key: arm[key] for key in plain} for arm in arms()],
        },
        "provenance": {"zoo-exp": "0.0.1", "git_commit": "abc"},
    }


def tokens_row(task: str, number: int, arm: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """A row of tokens.jsonl; arms that rate nothing have no correlation."""
    rates = arm["selector"] == "zoo"
    reference = arm["arm"] == "zoo multiply @16"
    value = 1.0 if reference else float(generator.uniform(0.2, 0.9))
    return {
        "task": task,
        "sample_id": f"{number:03d}-0",
        "image": 0,
        **{key: arm[key] for key in ("arm", "selector", "options", "budget")},
        "reference": "zoo multiply @16",
        "spearman": value if rates else None,
        "spearman_above": value - 0.1 if rates else None,
        "overlap": value,
        "effective_rank": 9.0 + value,
        "kept_tokens": KEPT[arm["selector"]],
        "n_visual": 144,
        "select_ms": 1.0,
    }


def known() -> list[Task]:
    """The tasks of the run."""
    return [tasks.get(name) for name in TASKS]


def picture(seed: int) -> Image.Image:
    """A gradient with a few shapes, 96 x 96."""
    generator = np.random.default_rng(seed)
    corner, other = generator.integers(40, 220, (2, 3))
    ramp = np.linspace(0, 1, 96)[:, None, None] * np.linspace(0.3, 1, 96)[None, :, None]
    image = Image.fromarray((corner + ramp * (other - corner)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, size = (int(v) for v in (*generator.integers(4, 70, 2), generator.integers(12, 26)))
        colour = tuple(int(v) for v in generator.integers(0, 255, 3))
        (draw.ellipse if generator.random() < 0.5 else draw.rectangle)(
            (x, y, x + size, y + size), fill=colour
        )
    return image


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def mask_row(run: Path, task: str, number: int) -> dict[str, Any]:
    """Masks of one question of a task; its picture is saved into the run folder."""
    generator = np.random.default_rng(number)
    picture(number).save(run / "images" / f"{number}.png")
    shown = [
        {
            "arm": arm["arm"],
            "indices": sorted(generator.permutation(144)[: KEPT[arm["selector"]]].tolist()),
            "response": "yes",
            "score": float(generator.random() < 0.7),
        }
        for arm in arms()
        if arm["seed_index"] == 0
    ]
    return {
        "task": task,
        "sample_id": f"00{number}-0",
        "question": "What colour is the $5 shape_left of the <b>circle</b>?",
        "reference": "red",
        "grid": [12, 12],
        "image": f"images/{number}.png",
        "arms": shown,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a run folder with records, timings and masks."""

    def make(images: int = 40, per_image: int = 3, masks: bool = True) -> Path:
        run = tmp_path / "run"
        (run / "images").mkdir(parents=True, exist_ok=True)
        write_jsonl(run / "records.jsonl", made_up_records(images, per_image))
        timings = [
            {"task": task, "arm": arm["arm"], "batch_size": 4, "select_ms": 2.0, "prefill_decode_ms": 40.0}
            | {"vision_ms": 8.0}
            for task in TASKS
            for arm in arms()
        ]
        write_jsonl(run / "timings.jsonl", timings)
        if masks:
            write_jsonl(run / "masks.jsonl", [mask_row(run, task, n) for n, task in enumerate(TASKS)])
        return run

    return make


@pytest.fixture
def make_whole_run(make_run: Callable[..., Path]) -> Callable[..., Path]:
    """Function that writes a run folder as `run` leaves it: with its manifest, and with tokens.jsonl if asked for."""

    def make(
        name: str = "made_up", /, tokens: bool = False, run_id: str = "0123456789ab", **model: Any
    ) -> Path:
        run = make_run(images=12, per_image=2)
        (run / "experiment.json").write_text(json.dumps(manifest(name, **model)))
        if tokens:
            generator = np.random.default_rng(0)
            rows = [tokens_row(t, n, arm, generator) for t in TASKS[:2] for n in range(8) for arm in arms()]
            write_jsonl(run / "tokens.jsonl", rows)
        target = run.parent / "runs" / name / run_id
        target.parent.mkdir(parents=True, exist_ok=True)
        run.rename(target)
        return target

    return make
