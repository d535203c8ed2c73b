"""The figures of one run, drawn here or by other processes while the statistics of the next run are computed."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.report.figures import budget_curve, cost, heat, kde, layers, positions, rank


@dataclass(frozen=True)
class Picture:
    """A figure: the common name of its .svg and .png files, and what it shows."""

    path: Path
    caption: str


class Here(Executor):
    """An executor that does the work at once, in this thread."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it; an error is raised when the result is asked for, as in any executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def drawers(processes: int) -> Iterator[Executor]:
    """Who draws: this process for 0, otherwise so many others.

    They are started afresh (`spawn`), as a fork of a process with torch's threads may hang. A script that asks for
    them needs `if __name__ == "__main__":`, as with every use of `multiprocessing`.
    """
    if processes < 1:
        with Here() as here:
            yield here
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        # `with pool` would draw everything that waits before it lets the error out.
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def spare_processes(runs: int) -> int:
    """How many processes are worth starting: none for two runs (a start takes longer), one per core, at most four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(runs - 2, 0), cores, 4)


def draw_all(
    frame: pd.DataFrame,
    kept: Mapping[str, NDArray[np.float64] | None],
    n_images: int,
    tokens: pd.DataFrame,
    path: Path,
) -> list[Picture]:
    """Draw what applies to a run.

    Args:
        frame: from `results.compute`.
        kept: arm of the smallest budget -> the shares of images that keep each place (see `positions.shares`).
        n_images: images that they are shares of.
        tokens: from `token_rows.read_tokens`.
        path: what the figures' names begin with.
    """
    drawn: list[tuple[str, str, Callable[[Path], bool]]] = [
        (
            "budget",
            "Retained average by budget, with 95 % intervals (paired bootstrap over images).",
            lambda path: budget_curve.draw(frame, path),
        ),
        (
            "cost",
            "Retained average against what an answer costs. Times: this machine, median over batches, per question.",
            lambda path: cost.draw(frame, path),
        ),
        ("heat", "Retained average by directions m and step size h.", lambda path: heat.draw(frame, path)),
        (
            "layers",
            "Where sensitivity is measured: encoder layers and projector.",
            lambda path: layers.draw(frame, path),
        ),
        (
            "ranks",
            "Rank correlation with the reference arm, over the tokens that it rates above the threshold of 0.5; "
            "vertical lines are means.",
            lambda path: kde.draw(tokens, path),
        ),
        ("ranks_all", "The same over all tokens.", lambda path: kde.draw(tokens, path, "spearman")),
        ("span", "Effective rank of what is kept, by budget (colour).", lambda path: rank.draw(tokens, path)),
        (
            "positions",
            "Where tokens are kept at the smallest budget; the numbers are the shares of the upper, middle and lower "
            "third of the image. A rule without position bias is even over many images.",
            lambda path: positions.draw(kept, n_images, path),
        ),
    ]
    found = []
    for name, caption, draw in drawn:
        target = path.with_name(f"{path.name}_{name}")
        if draw(target):
            found.append(Picture(target, caption))
    return found
