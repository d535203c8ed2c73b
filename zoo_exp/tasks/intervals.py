"""Bootstrap intervals of a task's metrics: whole units are resampled, so rows of one image stay together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_exp.tasks.base import Task

_CELLS_AT_ONCE = 4_000_000


def intervals(
    task: "Task", rows: Sequence[Mapping[str, Any]], draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of every metric.

    Args:
        task: The benchmark.
        rows: What `task.aggregate` takes; rows with one `image_id` are resampled together.
        draws: Number of resamplings.
        seed: The same seed and rows give the same intervals.

    Returns:
        Metric -> (low, high). Metrics that only count (submissions) have none.
    """
    import numpy as np

    if task.submission_only:
        return {}
    units: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for unit, counts in task.tallies(rows):
        for key, value in counts.items():
            units[unit][key] += value
    keys = sorted({key for counts in units.values() for key in counts})
    # Sorted units: the order of the rows must not show in the draws.
    table = np.array([[units[unit].get(key, 0.0) for key in keys] for unit in sorted(units)])
    n, rng = len(table), np.random.default_rng(seed)
    sums = []
    step = max(1, _CELLS_AT_ONCE // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picks = rng.integers(n, size=(size, n))
        weights = np.stack([np.bincount(row, minlength=n) for row in picks]).astype(float)
        sums.append(weights @ table)
    resampled = np.concatenate(sums)
    metrics = task.metrics({key: resampled[:, i] for i, key in enumerate(keys)})
    bounds = {name: np.percentile(values, [2.5, 97.5]) for name, values in metrics.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
