"""Attempts at made-up cells, with the callback that Lightning calls; also as a process of its own.

W&B remembers its server for as long as a process lives, so what is online runs apart: one line of JSON on standard
input is one attempt, `[[number of the cell, [numbers of questions]], ...]`, and "close" ends it. What the user is told
is printed.
"""

import json
import sys
from statistics import fmean
from types import SimpleNamespace

from made_up_run import picture

from zoo_exp.config import compose
from zoo_exp.runs import cells, reading
from zoo_exp.runs.journal import Journal
from zoo_exp.tasks import get
from zoo_exp.tracking import session
from zoo_exp.tracking.cell_logger import CellLogger

TASKS = ("embedded_gqa", "embedded_pope")
MODULES = {}
"""By id of the logger that follows them."""
QUESTIONS = 6


def make_experiment(out, *more):
    """Two cells of five arms, three of them seeds."""
    base = ["selector=[full,zoo,random]", "budget=16", f"task=[{','.join(TASKS)}]", f"out={out}"]
    made = compose([*base, *more])
    made.run_dir.mkdir(parents=True, exist_ok=True)
    return made


def answer(experiment, cell, numbers, rank=0, arms=None):
    """Write the records, timings and masks of some questions, as a rank does."""
    rows, masks = [], []
    for number in numbers:
        shown = []
        for place, arm in enumerate(experiment.arms):
            if arms is not None and arm.selector not in arms:
                continue
            right = (number + place) % 3 > 0
            parts = {"score": float(right), "prediction": "yes" if right else "no"}
            parts |= {"category": "random", "ground_truth": "yes"}
            row = {"task": cell.task, **arm.as_dict(), "cell": cell.id, "sample_id": str(number)}
            row |= {"response": "yes", "score": float(right), "parts": parts, "n_visual": 144}
            kept = 144 if arm.selector == "full" else 16
            rows.append(row | {"kept_tokens": kept, "flops_tflop": 0.002 if kept > 16 else 0.001})
            shown.append(
                {"arm": arm.label, "indices": list(range(kept)), "response": "yes", "score": float(right)}
            )
        path = experiment.run_dir / "masks" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)
        mask = {"task": cell.task, "sample_id": str(number), "question": "is it?", "reference": "yes"}
        masks.append(mask | {"grid": [12, 12], "image": f"masks/{number}.png", "arms": shown})
    times = [
        {"task": cell.task, "arm": arm.label, "batch_size": 2, "select_ms": 4.0, "prefill_decode_ms": 60.0}
        | {"vision_ms": 8.0}
        for arm in experiment.arms
    ]
    for kind, content in (("records", rows), ("timings", times), ("masks", masks)):
        with Journal(experiment.run_dir, kind, cell.id, rank) as file:
            file.append(content)


class Module:
    """What the logger reads of `PrunedVLM`."""

    def __init__(self, experiment):
        self.experiment, self.work, self.recorded_in_cell = experiment, None, 0

    def begin(self, cell):
        """Start or continue a cell."""
        if self.work is None or self.work.cell.id != cell.id:
            total = QUESTIONS * len(self.experiment.arms)
            earlier = len(list(self._records(cell)))
            self.work = SimpleNamespace(cell=cell, task=get(cell.task), total=total, answers=total - earlier)
            self.recorded_in_cell = 0

    @property
    def running(self):
        """Mean score of every arm."""
        scores = {}
        for record in self._records(self.work.cell):
            scores.setdefault(record["arm"], []).append(record["score"])
        return {arm: fmean(values) for arm, values in scores.items()}

    def _records(self, cell):
        return (record for record in reading.records(self.experiment.run_dir) if record["cell"] == cell.id)


def attempt(experiment, parts, logger, ranks=1, is_rank_zero=True):
    """One attempt: (cell, numbers) after (cell, numbers), a batch each, with the callback that Lightning calls."""
    trainer = SimpleNamespace(is_global_zero=is_rank_zero, world_size=ranks)
    module = MODULES.setdefault(id(logger), Module(experiment))
    for cell, numbers in parts:
        cells.note(experiment.run_dir, cell, cells.RUNNING, samples=QUESTIONS)
        module.begin(cell)
        for number in numbers:
            answer(experiment, cell, [number])
            module.recorded_in_cell += len(experiment.arms)
            logger.on_test_batch_end(trainer, module, None, None, 0, 0)


if __name__ == "__main__":
    experiment = make_experiment(sys.argv[1])
    session.BOUNDS |= {"init_timeout": 120, "finish_timeout": float(sys.argv[2])}
    session.BOUNDS |= {name: 0.1 for name in session.BOUNDS if "_retry_wait_" in name}  # as many attempts
    logger = CellLogger(experiment, lambda line: print(line, flush=True), every=0)
    for command in map(json.loads, sys.stdin):
        if command == "close":
            logger.close()
        else:
            attempt(experiment, [(experiment.cells()[place], numbers) for place, numbers in command], logger)
        print("done", flush=True)
