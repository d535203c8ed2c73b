"""Cost of 23 arms compared with the full-token arm alone: processor time of whole runs, and their records.

    python benchmarks/arms.py [limit] [task]    # questions of the task, default 50 of world2_pope

The arms are `full` and, at 16 and 8 of 144 tokens, ten of the fusion ablation and a random one. Every run loads the
model, makes the questions, generates responses, writes records and makes the report. Arms share one vision pass, and
one scoring pass where their scores are equal; controls share the sensitivity that they change. The last run answers up
to eight arms of a budget in one call (`engine.arms_per_call`). The stages below each run are parts of its time.
"""

import functools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config.compose import compose
from zoo_exp.evaluation.module import PrunedVLM
from zoo_exp.models import answering
from zoo_exp.models.generators import HfGenerator

TOGETHER = 8
STAGES = {
    (PrunedVLM, "test_step"): "all batches",
    (answering.Ratings, "rate"): "sensitivities",
    (answering, "select"): "selection, with sensitivities",
    (HfGenerator, "generate"): "prefill and decoding",
}


def measured(spent: Counter[str], function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, which adds its processor time to `spent`, unless it was called by itself."""
    inside = 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        started, inside = time.process_time(), inside + 1
        try:
            return function(*args, **kwargs)
        finally:
            inside -= 1
            spent[name] += (time.process_time() - started) * (inside == 0)

    return call


def run(limit: int, task: str, alone: bool, per_call: int) -> tuple[int, float, bytes]:
    """Arms, processor seconds and records of a run with `full` alone or with all arms."""
    overrides = ["+exp=ablation_fusion", "budget=[16,8]", f"task={task}", f"limit={limit}", "logger=none"]
    with tempfile.TemporaryDirectory() as out:
        experiment = compose([*overrides, f"out={out}", f"engine.arms_per_call={per_call}"])
        arms = tuple(
            arm
            for arm in experiment.arms
            if (arm.selector == "full" if alone else arm.selector != "blind")
            and (arm.selector != "random" or arm.seed_index == 0)
        )
        experiment = replace(experiment, arms=arms)
        started = time.process_time()
        pipeline.run(experiment, Console(quiet=True))
        spent = time.process_time() - started
        return len(arms), spent, (experiment.run_dir / "records.jsonl").read_bytes()


def main() -> None:
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    task = sys.argv[2] if len(sys.argv) > 2 else "world2_pope"
    spent: Counter[str] = Counter()
    for (owner, name), label in STAGES.items():
        setattr(owner, name, measured(spent, getattr(owner, name), label))
    run(4, task, True, 1)  # warm-up: imports, the world's material
    baseline, records = 0.0, []
    for alone, per_call in ((True, 1), (False, 1), (False, TOGETHER)):
        spent.clear()
        count, seconds, found = run(limit, task, alone, per_call)
        baseline = baseline or seconds
        records.append(found)
        how = "one arm per call" if per_call == 1 else f"up to {per_call} arms per call"
        print(f"{count:3d} arms, {how:24s} {seconds:7.2f} s {seconds / baseline:6.2f}x", flush=True)
        for label in STAGES.values():
            print(f"      {label:31s} {spent[label]:7.2f} s")
    differ = sum(one != other for one, other in zip(*(r.splitlines() for r in records[1:]), strict=True))
    print(f"{limit} questions of {task}; records of the last two runs that differ: {differ}")


if __name__ == "__main__":
    main()
