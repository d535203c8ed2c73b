"""A folder of a made-up run, for every test of reports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_run import TASKS, arms, made_up_records, manifest, mask_row, tokens_row, write_jsonl


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
