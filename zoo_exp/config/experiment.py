"""An experiment that is ready to run: cells (model, task) with their arms, fully parsed and validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zoo_exp.config import identity
from zoo_exp.config.schema import (
    CacheConfig,
    ClaimConfig,
    DataConfig,
    EngineConfig,
    LoggerConfig,
    ModelConfig,
    TrainerConfig,
)
from zoo_exp.core.budget import Budget
from zoo_exp.wording import counted

if TYPE_CHECKING:
    from zoo_exp.selectors.base import Selector


@dataclass(frozen=True)
class Arm:
    """One selector with its options at one budget, with one set of draws.

    Attributes:
        selector: name in the registry.
        options: the options that the configuration sets; the others keep the selector's defaults.
        budget: how many visual tokens are kept; None for `full` and `blind`.
        seed_index: 0, 1, ... for the repetitions of a stochastic selector.
        row: the label without the repetition: what a table averages over.
        label: unique in its experiment, e.g. `zoo multiply @16` or `random @16 seed 2`.
        id: hash of selector, all options, budget and seed_index, and of a user's own source; the label does not enter.
        positions: positions of the kept tokens, `contiguous` or `original`; None for the model family's default.
    """

    selector: str
    options: Mapping[str, Any]
    budget: Budget | None
    seed_index: int
    row: str
    label: str
    id: str
    positions: str | None = None

    def build(self) -> Selector:
        """Instantiate the selector."""
        from zoo_exp import selectors

        built: Selector = selectors.get(self.selector, **self.options)
        return built

    def as_dict(self) -> dict[str, Any]:
        """The arm in the words of a record: plain values only."""
        return {
            "arm": self.label,
            "arm_id": self.id,
            "row": self.row,
            "selector": self.selector,
            "options": dict(self.options),
            "budget": None if self.budget is None else str(self.budget),
            "seed": self.seed_index,
        }


@dataclass(frozen=True)
class Cell:
    """One (model, task) with all of its arms: what one process, and one SLURM array index, runs.

    Attributes:
        id: hash of what changes the records of the cell whatever the arm: model, weights, dtype, task, seed, engine.
    """

    model: ModelConfig
    task: str
    arms: tuple[Arm, ...]
    seed: int
    id: str


def arms_text(arms: Sequence[Arm]) -> str:
    """How many arms there are, an arm being one row of a table; repetitions with other seeds are named apart."""
    rows = len({arm.row for arm in arms})
    return counted(rows, "arm") + (f" with {len(arms) - rows} more seeds" if len(arms) > rows else "")


@dataclass(frozen=True)
class Experiment:
    """Cells and what to report. Built by `zoo_exp.config.compose`.

    Attributes:
        limit: the first N units of each task; None means all.
        out: parent folder of the run folders.
        fresh: start anew: recorded answers of this and of earlier runs are set aside.
        overrides: the command line, so that results show how to reproduce them.
        left_out: arms of the experiment's file that the model's family does not have, and why.
        notes: what a user should know before it runs, such as an option that some selectors do not have.
    """

    name: str
    model: ModelConfig
    tasks: tuple[str, ...]
    arms: tuple[Arm, ...]
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    limit: int | None = None
    out: Path = Path("runs")
    fresh: bool = False
    question: str = ""
    overrides: tuple[str, ...] = ()
    claims: tuple[ClaimConfig, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """One cell per task, in the order of `tasks`."""
        return [
            Cell(
                self.model,
                task,
                self.arms,
                self.seed,
                identity.cell_id(self.model, task, self.seed, self.engine),
            )
            for task in self.tasks
        ]

    @property
    def id(self) -> str:
        """Hash of cells, arms and limit: every table has its own folder, wherever and however it is run.

        Records are not bound to it: a run copies the records that its siblings have (`runs.resume`).
        """
        cells, arms = [cell.id for cell in self.cells()], [arm.id for arm in self.arms]
        return identity.digest({"cells": cells, "arms": arms, "limit": self.limit})

    @property
    def run_dir(self) -> Path:
        """The folder of this run: `out/name/id`."""
        return self.out / self.name / self.id

    def as_dict(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return {
            "name": self.name,
            "question": self.question,
            "id": self.id,
            "overrides": list(self.overrides),
            "seed": self.seed,
            "limit": self.limit,
            "out": str(self.out),
            "model": asdict(self.model),
            "tasks": list(self.tasks),
            "arms": [arm.as_dict() for arm in self.arms],
            "claims": [asdict(claim) for claim in self.claims],
            "data": asdict(self.data),
            "trainer": asdict(self.trainer),
            "engine": asdict(self.engine),
            "cache": asdict(self.cache),
            "logger": asdict(self.logger),
        }

    def to_yaml(self, width: int = 80) -> str:
        """The resolved configuration as YAML, for readers and for the run folder.

        Args:
            width: characters of a line after which it is broken.
        """
        return str(yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, width=width))
