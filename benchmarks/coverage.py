"""Coverage of the report's 95 % intervals, in simulated runs with known true values.

    python benchmarks/coverage.py --runs 400                     # minutes on one core
    python benchmarks/coverage.py --runs 2000 --units 100        # one size, more precisely

A run has nine tasks like the embedded benchmarks: six means, POPE's F1, MME pairs and MMBench rotation groups, all on
the same images. The latent difficulty has a component per image, a component per question that the arms share (with
correlation RHO), and a component per response. There are two scenarios: `typical`, where the full-token arm answers
90 % of the questions correctly, and `ceiling` with 99.5 %. Two arms are equally good: the last column is the rate at
which one of them is printed in bold (target: at most 5 %).

True values come from a simulation of TRUTH units. Target coverage: 93 to 97 % with 100 units, 90 % with 50.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from zoo_exp import tasks
from zoo_exp.runs.run_answers import Answers
from zoo_exp.statistics.alignment import TaskSamples, align
from zoo_exp.statistics.arm_rows import ArmRow, group
from zoo_exp.statistics.bootstrap import percentile_interval
from zoo_exp.statistics.comparisons import best_rows
from zoo_exp.statistics.estimates import estimate
from zoo_exp.statistics.frame import Table
from zoo_exp.statistics.intervals import wilson
from zoo_exp.statistics.tallies import tally
from zoo_exp.tasks.base import Task

SCENARIOS = {"typical": (0.9, 0.8, 0.8, 0.7), "ceiling": (0.995, 0.985, 0.985, 0.95)}
"""Skills of full, two equal arms, and a worse one."""
RHO = 0.6
IMAGE = 0.15  # part of the shared difficulty that all questions about an image have in common
TRUTH = 20_000
NAMES = (
    *("embedded_gqa", "embedded_vqav2", "embedded_textvqa", "embedded_scienceqa", "embedded_mmmu"),
    *("embedded_seedbench", "embedded_pope", "embedded_mme", "embedded_mmbench"),
)
QUESTIONS = {"mme": 2, "mmbench": 4}  # per unit
ARMS = [
    {"arm": name, "arm_id": name, "selector": name, "options": {}, "budget": None if name == "full" else "16"}
    for name in ("full", "one", "other", "worse")
]


@dataclass(frozen=True)
class Simulated:
    """Right or wrong, per unit, question of the unit, and arm [U, Q, A]; `gold` is the right answer of POPE [U, Q]."""

    right: np.ndarray
    gold: np.ndarray


def simulate(
    generator: np.random.Generator, task: Task, image: np.ndarray, skills: Sequence[float]
) -> Simulated:
    """Responses to one unit per image."""
    shape = len(image), QUESTIONS.get(task.family, 1)
    shared = np.sqrt(IMAGE) * image[:, None] + np.sqrt(RHO - IMAGE) * generator.standard_normal(shape)
    latent = shared[..., None] + np.sqrt(1 - RHO) * generator.standard_normal((*shape, len(skills)))
    return Simulated(latent < stats.norm.ppf(skills), generator.random(shape) < 0.5)


def rows_of(task: Task, run: Simulated, arm: int) -> list[dict[str, object]]:
    """Score parts as the task gives them."""
    rows: list[dict[str, object]] = []
    for unit, place in np.ndindex(*run.gold.shape):
        right, gold = bool(run.right[unit, place, arm]), bool(run.gold[unit, place])
        word = ("no", "yes")
        row = {"sample_id": f"{unit}-{place}", "score": float(right)}
        row |= {"data_type": "image", "category": "color", "image": str(unit), "l2_category": ""}
        row |= {"prediction": word[right == gold], "ground_truth": word[gold]}
        row |= {"index": unit + 1_000_000 * place, "answer": "A", "prefetched": "A" if right else "B"}
        rows.append(row | {"extracted": row["prefetched"]})
    return rows


def samples_of(task: Task, run: Simulated) -> TaskSamples:
    """A simulated task as if it came from records."""
    names = [str(arm["arm"]) for arm in ARMS]
    records = [
        {"task": task.name, "arm": arm, "arm_id": arm, "score": parts["score"], "parts": parts}
        | {"sample_id": parts["sample_id"], "image_id": f"image-{str(parts['sample_id']).split('-')[0]}"}
        for number, arm in enumerate(names)
        for parts in rows_of(task, run, number)
    ]
    samples = align(Answers.of(records), task, names)
    assert samples is not None
    return samples


def truth(task: Task, skills: Sequence[float]) -> np.ndarray:
    """The task's metric in a very large run [A]."""
    generator = np.random.default_rng(1)
    run = simulate(generator, task, generator.standard_normal(TRUTH), skills)
    rows = [rows_of(task, run, arm) for arm in range(len(skills))]
    questions = run.gold.shape[1]
    none = np.repeat(np.zeros(TRUTH, np.int64), questions)
    return tally(task, rows, none, ["all"]).metrics[task.main_metric]


def observed(
    generator: np.random.Generator,
    known: Sequence[Task],
    rows: list[ArmRow],
    units: int,
    skills: Sequence[float],
    draws: int,
    true: np.ndarray,
) -> Iterator[tuple[str, bool]]:
    """What one simulated run shows: (column of the table, whether it holds)."""
    image = generator.standard_normal(units)
    seed = int(generator.integers(2**31))
    done = [
        estimate(samples_of(task, simulate(generator, task, image, skills)), rows, 0, draws, seed)
        for task in known
    ]
    for task, value in zip(done, true, strict=True):
        low, high = task.intervals[1].low, task.intervals[1].high
        yield (
            ("one task: Wilson" if task.tallied.proportion else "one task: bootstrap"),
            low <= value[1] <= high,
        )
    contest = Table(rows, done, 0, set()).contest
    shares = (100 * true / true[:, [0]]).mean(0)
    for name, drawn, wanted in (
        ("retained average", contest.resampled[:, 1], shares[1]),
        ("difference", contest.resampled[:, 1] - contest.resampled[:, 3], shares[1] - shares[3]),
        ("difference of equals", contest.resampled[:, 1] - contest.resampled[:, 2], 0.0),
    ):
        interval = percentile_interval(drawn, contest.images)
        yield name, interval.low <= wanted <= interval.high
    # The worse arm does not compete here: it would hide a false difference between the equal ones.
    yield "bold at a tie", bool(best_rows(rows, contest, {3}))


def main() -> None:
    """Print coverage by scenario and size, with the Monte Carlo error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="simulated runs of each size and scenario")
    parser.add_argument("--units", type=int, nargs="+", default=[20, 50, 100], help="units of each task")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    known, rows = [tasks.get(name) for name in NAMES], group(ARMS)
    started, printed = time.perf_counter(), False
    for scenario, skills in SCENARIOS.items():
        true = np.stack([truth(task, skills) for task in known])
        for units in args.units:
            held: dict[str, list[bool]] = {}
            for run in range(args.runs):
                generator = np.random.default_rng([args.seed, units, run])
                for name, hit in observed(generator, known, rows, units, skills, args.draws, true):
                    held.setdefault(name, []).append(hit)
            if not printed:
                print(f"coverage of 95 % intervals in percent, {args.runs} runs each, {args.draws} draws")
                print("| scenario | units | " + " | ".join(held) + " |")
                print("|---|--:|" + "--:|" * len(held))
                printed = True
            cells = [f"{100 * np.mean(hits):.1f}" for hits in held.values()]
            print(f"| {scenario} | {units} | " + " | ".join(cells) + " |", flush=True)
    own = wilson(0.95, args.runs)
    print(f"95 % of {args.runs} runs can read as {100 * own.low:.1f} to {100 * own.high:.1f} by chance")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
