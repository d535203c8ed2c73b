"""The questions of one cell that still lack an answer, sharded over ranks and collated for the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.tasks.base import Task


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        number: row number in the task.
        id: `task.sample_id`.
        doc: the row in the official columns.
    """

    number: int
    id: str
    doc: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Samples and the processor's tensors for them (`inputs`: input_ids [B, L], pixel_values ...)."""

    samples: list[Sample]
    inputs: dict[str, Any]


class Pending(Dataset[Sample]):
    """The samples of `task` with the row numbers `numbers`."""

    def __init__(self, task: Task, rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> None:
        self.task, self.rows, self.numbers = task, rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Sample:
        number = self.numbers[place]
        doc = self.rows[number]
        return Sample(number, self.task.sample_id(doc), doc)


def shard(todo: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The rank's share of `todo`, without padding.

    A rank whose share is empty gets the last sample again, because Lightning stops at an empty loader. Records are
    keyed by sample, so a repeated one is harmless.
    """
    return list(todo[rank::world_size] or todo[-1:])


def make_loader(
    pending: Pending, collate: Callable[[list[Sample]], Batch], batch_size: int, workers: int
) -> DataLoader[Batch]:
    """Batches in order."""
    return DataLoader(
        pending,  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=False,
        num_workers=workers,
        collate_fn=collate,  # type: ignore[arg-type]
    )


class Collate:
    """Builds the model inputs of a batch: the chat template around the task's prompt, and the processor.

    Args:
        task: provides prompts and images.
        processor: the checkpoint's processor (left-padding tokenizer).
        model_family: selects the variant of the prompt (`ModelConfig.prompt_family`).
    """

    def __init__(self, task: Task, processor: Any, model_family: str) -> None:
        self.task, self.processor, self.model_family = task, processor, model_family

    def __call__(self, samples: list[Sample]) -> Batch:
        """Inputs of a batch."""
        chats = [user_turn(self.task.content(sample.doc, self.model_family)) for sample in samples]
        return Batch(samples, chat_inputs(self.processor, chats))
