"""How often the report's 95 % intervals hold the truth, in simulated runs whose truth is known.

    python benchmarks/coverage.py --runs 1000

An image has a difficulty that all of its questions and all arms share, so questions are clustered and arms are
paired. The chance of a right answer is Beta distributed over images, which makes every true value exact. Wanted:
between 93 % and 97 %.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from scipy import stats

from zoo_exp.statistics.bootstrap import draw, mean_statistic, percentile_interval, retained
from zoo_exp.statistics.intervals import Interval, design_effect, wilson

SKILLS = (0.85, 0.7, 0.65)  # full, an arm, another arm
CONCENTRATION = 3.0  # of the Beta distribution: lower means images differ more
TASKS = 3


def simulate(generator: np.random.Generator, images: int, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, arms] of one task and the image of each question [n]."""
    luck = generator.random(images)
    chance = np.stack(
        [stats.beta.ppf(luck, s * CONCENTRATION, (1 - s) * CONCENTRATION) for s in SKILLS], axis=1
    )
    clusters = np.repeat(np.arange(images), questions)
    return (generator.random((len(clusters), len(SKILLS))) < chance[clusters]).astype(float), clusters


def intervals(
    generator: np.random.Generator, images: int, questions: int, draws: int
) -> Iterator[tuple[str, Interval, float]]:
    """Every kind of interval in a report, on one simulated run: what it is about, the interval, the truth."""
    resampled = []
    for task in range(TASKS):
        scores, clusters = simulate(generator, images, questions)
        names = [f"{task}-{image}" for image in range(images)]
        statistic = mean_statistic(scores, clusters)
        resampled.append(draw(statistic, names, draws, seed=int(generator.integers(2**31))))
        if task == 0:
            right = scores[:, 1]
            plain = wilson(float(right.mean()), len(right), design_effect(right, clusters))
            yield "proportion (Wilson, widened)", plain, SKILLS[1]
            yield "mean (bootstrap by image)", percentile_interval(resampled[0][:, 1]), SKILLS[1]
            naive = wilson(float(right.mean()), len(right))
            yield "proportion without clusters (not used)", naive, SKILLS[1]
    shares = retained(resampled, reference=0)
    truth = [100 * skill / SKILLS[0] for skill in SKILLS]
    yield "retained average", percentile_interval(shares[:, 1]), truth[1]
    yield (
        "paired difference of retained averages",
        percentile_interval(shares[:, 1] - shares[:, 2]),
        truth[1] - truth[2],
    )


def main() -> None:
    """Print the coverage of each kind, with its own 95 % interval over simulated runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs")
    parser.add_argument("--images", type=int, default=100, help="images of each task")
    parser.add_argument("--questions", type=int, default=3, help="questions about each image")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = np.random.default_rng(args.seed)
    held: dict[str, int] = {}
    started = time.perf_counter()
    for _ in range(args.runs):
        for name, interval, truth in intervals(generator, args.images, args.questions, args.draws):
            held[name] = held.get(name, 0) + (interval.low <= truth <= interval.high)
    print(
        f"{args.runs} runs of {TASKS} tasks, {args.images} images, {args.questions} questions each, seed {args.seed}"
    )
    for name, count in held.items():
        own = wilson(count / args.runs, args.runs)
        print(f"{name:<42}{100 * count / args.runs:6.1f} % [{100 * own.low:.1f}, {100 * own.high:.1f}]")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
