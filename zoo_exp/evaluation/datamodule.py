"""The questions of all cells as a `LightningDataModule`: the ranks agree on what is left, and each takes its share."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning
from torch.utils.data import DataLoader

from zoo_exp.config.identity import digest
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation.sample_batches import Batch, Pending, Sample, make_loader, shard
from zoo_exp.evaluation.work import Work


class CellsData(lightning.LightningDataModule):
    """One loader per cell that has missing answers, in the order of the cells.

    Rank 0 decides what is left; other ranks never read the run folder, which changes while they start.

    Args:
        work: all cells; `todo` and `done` are read on rank 0 only.
        collate: function from a cell to its collate function.
        batch_size: samples per batch.
        workers: DataLoader processes per rank.
    """

    def __init__(
        self,
        work: Sequence[Work],
        collate: Callable[[Work], Callable[[list[Sample]], Batch]],
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.work, self.collate = list(work), collate
        self.batch_size, self.workers = batch_size, workers
        self.left: list[Work] = []

    def setup(self, stage: str) -> None:
        """Agree on what is left.

        Raises:
            InvalidValueError: a rank has different samples than rank 0.
        """
        trainer = self.trainer
        assert trainer is not None
        mine = [digest(item.ids) for item in self.work]
        plan = [(item.todo, item.done) for item in self.work] if trainer.is_global_zero else None
        ids, plan = trainer.strategy.broadcast((mine, plan))
        for item, own, expected in zip(self.work, mine, ids, strict=True):
            if own != expected:
                raise InvalidValueError(
                    f"{item.task.name}: process {trainer.global_rank} reads different samples than process 0; "
                    "all nodes must see the same data (data.root, or the hub cache)"
                )
        agreed = [item.take(*share) for item, share in zip(self.work, plan, strict=True)]
        # If nothing is left, externally started ranks still have to synchronise: they get one recorded sample.
        self.left = [item for item in agreed if item.todo] or [agreed[-1].take([0], agreed[-1].done)]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """The rank's share of every cell."""
        trainer = self.trainer
        assert trainer is not None
        return [
            make_loader(
                Pending(item.task, item.rows, shard(item.todo, trainer.global_rank, trainer.world_size)),
                self.collate(item),
                self.batch_size,
                self.workers,
            )
            for item in self.left
        ]
