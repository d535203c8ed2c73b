"""Throughput of an evaluation: all arms on one vision pass in batches, and one arm at a time with batch size 1.

    python benchmarks/throughput.py                    # embedded model, 20 questions of each of nine tasks, 26 arms
    python benchmarks/throughput.py --limit 5 --clock process    # on a machine shared with other work

Both process the same questions under the same arms (input selectors, and FastV inside the language model), in this
process, with the same number of threads. Times are from the first question to the last response, without loading and
tables. One response is one question under one arm. Ours is the test loop of a `run`, with its journals, fsync, FLOPs
and masks. The baseline is the bare loop of a harness that evaluates one forked model after another: for every arm and
every question preprocessing, vision encoder, selection, generation and scoring, without writing anything. The ratio
therefore favours the baseline. The responses must be equal, one by one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from zoo_exp import pipeline, tasks
from zoo_exp.config.compose import compose
from zoo_exp.config.experiment import Arm, Experiment
from zoo_exp.evaluation.module import PrunedVLM
from zoo_exp.evaluation.sample_batches import Collate, Sample
from zoo_exp.models.answering import DEFAULT_NEW_TOKENS, EncodedBatch, generate
from zoo_exp.models.loading import LoadedModel, load_model
from zoo_exp.tasks import data
from zoo_exp.tasks.base import Task

SELECTORS = ("full", "blind", "random", "divprune", "fastv", "visionzip", "zoo", "zoo_closed_form")
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
Answers = dict[tuple[str, str, str], str]
"""(task, arm id, sample id) -> response."""


def main() -> None:
    """Run both, compare the answers, print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=20, help="questions of each task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", default="wall", choices=CLOCKS, help="process: one thread's own time, on a shared machine"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    now = CLOCKS[args.clock]
    if args.clock == "process" and args.threads > 1:
        parser.error("--clock process goes with --threads 1")
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"selector=[{','.join(SELECTORS)}]",
            "budget=[48,32,16]",
            f"limit={args.limit}",
            f"out={folder}",
            "logger=none",
            "trainer=cpu",
        ]
        experiment = compose(overrides)
        loaded = load_model(experiment.model.path, dtype=experiment.model.dtype, device="cpu")
        for (
            task
        ) in experiment.tasks:  # the embedded questions are generated once per process, outside both timings
            data.load(tasks.get(task), None, args.limit)
        marks = mark_the_test_loop(now)
        started = now()
        pipeline.run(experiment, Console(quiet=True))
        whole_run, ours = now() - started, marks["end"] - marks["start"]
        answers = read_answers(experiment)
    started = now()
    singly = one_by_one(experiment, loaded)
    theirs = now() - started
    differing = [key for key in singly if answers.get(key) != singly[key]]
    result = {
        "answers": len(singly),
        "arms": len(experiment.arms),
        "selectors": sorted({arm.selector for arm in experiment.arms}),
        "clock": args.clock,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "one_by_one_s": round(theirs, 2),
        "run_s": round(ours, 2),
        "run_with_loading_and_tables_s": round(whole_run, 2),
        "one_by_one_answers_per_s": round(len(singly) / theirs, 2),
        "run_answers_per_s": round(len(answers) / ours, 2),
        "ratio": round(theirs / ours, 2),
        "differing_answers": len(differing),
    }
    print(json.dumps(result, indent=1))
    for key in differing[:10]:
        print("differs:", *key, repr(answers.get(key)), repr(singly[key]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def one_by_one(experiment: Experiment, loaded: LoadedModel) -> Answers:
    """Every arm as an evaluation of its own, one question at a time."""
    answers: Answers = {}
    for cell in experiment.cells():
        task = tasks.get(cell.task)
        rows = data.load(task, experiment.data.root, experiment.limit)
        collate = Collate(task, loaded.processor, experiment.model.prompt_family)
        for arm in cell.arms:
            selector = arm.build()
            for number in range(len(rows)):
                sample = Sample(number, task.sample_id(rows[number]), rows[number])
                response = answer(loaded, task, arm, selector, collate, sample, cell.seed)
                task.score(sample.doc, response)
                answers[task.name, arm.id, sample.id] = response
    return answers


@torch.inference_mode()
def answer(
    loaded: LoadedModel, task: Task, arm: Arm, selector: Any, collate: Collate, sample: Sample, seed: int
) -> str:
    """One question under one arm, from the image to the response."""
    inputs = collate([sample]).inputs
    batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, selector.needs))
    generated = generate(
        loaded,
        batch,
        selector,
        arm.budget,
        [f"{task.name}/{sample.id}/{arm.seed_index}"],
        seed=seed,
        max_new_tokens=task.generation.max_new_tokens or DEFAULT_NEW_TOKENS,
        do_sample=False,
    )
    return generated.read(loaded, task.generation.until)[0].text


def read_answers(experiment: Experiment) -> Answers:
    """What the run recorded."""
    lines = (experiment.run_dir / "records.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["task"], row["arm_id"], row["sample_id"]): row["response"] for row in rows}


def mark_the_test_loop(now: Callable[[], float]) -> dict[str, float]:
    """When the next run starts its test loop, and when it has written its last answer."""
    marks: dict[str, float] = {}
    for name, method in (("start", "on_test_start"), ("end", "on_test_end")):
        original = getattr(PrunedVLM, method)

        def noted(module: PrunedVLM, original: Any = original, name: str = name) -> None:
            if name == "start":
                marks[name] = now()
            original(module)
            if name == "end":
                marks[name] = now()

        setattr(PrunedVLM, method, noted)
    return marks


if __name__ == "__main__":
    main()
