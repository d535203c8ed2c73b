"""The figures of one run, drawn here or in worker processes while the statistics of the next run are computed."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.report.figure_style import NARROW
from zoo_exp.report.figures_results import budget_curve, cost, heat_map, layer_curve
from zoo_exp.report.figures_tokens import correlations, effective_ranks, positions


@dataclass(frozen=True)
class DrawnFigure:
    """A figure: the common name of its .svg, .png and `_narrow.svg` files, and what it shows."""

    path: Path
    caption: str

    @property
    def wide(self) -> Path:
        """The vector file for pages and paper."""
        return self.path.with_name(f"{self.path.name}.svg")

    @property
    def narrow(self) -> Path:
        """The vector file for narrow screens."""
        return self.path.with_name(f"{self.path.name}{NARROW}.svg")


class Here(Executor):
    """An executor that does the work immediately, in this thread."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `work`; an error is raised when the result is requested, as in any executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def drawers(processes: int) -> Iterator[Executor]:
    """An executor that draws: this process for 0, otherwise that many worker processes.

    Workers are spawned, as a fork of a process with torch's threads may hang. A script that asks for them needs
    `if __name__ == "__main__":`, as with every use of `multiprocessing`.
    """
    if processes < 1:
        with Here() as here:
            yield here
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        # `with pool` would draw everything in its queue before it raises the error.
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
) -> list[DrawnFigure]:
    """Draw the figures that apply to a run.

    Args:
        frame: from `results.compute`.
        kept: arm of the smallest budget -> the share of images that keep each position (`figures_tokens.shares`).
        n_images: number of images behind the shares.
        tokens: from `token_rows.read_tokens`.
        path: what the names of the figures begin with.
    """
    drawn: list[tuple[str, str, Callable[..., bool], tuple[Any, ...]]] = [
        (
            "budget",
            "Retained average by budget, with 95 % intervals (paired bootstrap over images).",
            budget_curve,
            (frame,),
        ),
        (
            "cost",
            "Retained average against cost per question. Times: this machine, median over batches.",
            cost,
            (frame,),
        ),
        ("heat", "Retained average by number of directions m and step size h.", heat_map, (frame,)),
        (
            "layers",
            "Retained average by the layer at which sensitivity is measured: encoder layers and projector.",
            layer_curve,
            (frame,),
        ),
        (
            "ranks",
            "Rank correlation of token scores with the reference arm, over the tokens that it scores above 0.5; "
            "vertical lines: means.",
            correlations,
            (tokens,),
        ),
        (
            "ranks_all",
            "Rank correlation of token scores with the reference arm, over all tokens.",
            partial(correlations, column="spearman"),
            (tokens,),
        ),
        ("span", "Effective rank of the kept tokens, by budget (colour).", effective_ranks, (tokens,)),
        (
            "positions",
            "Positions of kept tokens at the smallest budget; numbers: shares in the upper, middle and lower third "
            "of the image. A selector without position bias is uniform over many images.",
            positions,
            (kept, n_images),
        ),
    ]
    found = []
    for name, caption, draw, data in drawn:
        target = path.with_name(f"{path.name}_{name}")
        if draw(*data, target):
            draw(*data, target, narrow=True)
            found.append(DrawnFigure(target, caption))
    return found
