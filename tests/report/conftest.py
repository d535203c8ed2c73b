"""A folder of a made-up run, for every test of reports."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_run import TASKS, arms, made_up_records, mask_row, write_jsonl


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
