"""The questions of one cell that still lack an answer, sharded over ranks and collated for the model."""

import ctypes
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, Dataset

from zoo_exp.errors import OURS, UnexpectedError, as_ours, named
from zoo_exp.evaluation import stop
from zoo_exp.models.chat import Chat, chat_inputs, user_turn
from zoo_exp.tasks.base import Task
from zoo_exp.tasks.check import check_row
from zoo_exp.tasks.parquet import ParquetRows

PR_SET_PDEATHSIG = 1
"""Linux's `prctl` option: the signal that a process gets when its parent dies."""


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        number: row number in the task.
        id: `task.sample_id`.
        doc: the row in the official columns.
        source: file and row number, for messages; empty where rows lie in no file.
    """

    number: int
    id: str
    doc: dict[str, Any]
    source: str = ""


@dataclass(frozen=True)
class Batch:
    """Samples and the processor's tensors for them (`inputs`: input_ids [B, L], pixel_values ...).

    Attributes:
        refused: samples with an image that the processor refuses, and why; they have no row in `inputs`.
    """

    samples: list[Sample]
    inputs: dict[str, Any]
    refused: list[tuple[Sample, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """An error in place of a sample or batch: a value crosses processes whole, a raised exception does not.

    Attributes:
        kind: name of its class, one of `errors.OURS`.
        message: its message.
        trace: the traceback of the process that raised it.
    """

    kind: str
    message: str
    trace: str

    @classmethod
    def of(cls, error: Exception, where: str, source: str = "") -> "Failure":
        """An exception with what was being worked on, and in which file."""
        ours = as_ours(error, where)
        kind = next(kind.__name__ for kind in type(ours).__mro__ if kind in OURS)
        message = f"{ours} [{source}]" if source else str(ours)
        return cls(kind, message, "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """The exception again; its traceback is a note."""
        known = {kind.__name__: kind for kind in OURS}
        made: Exception = known.get(self.kind, UnexpectedError)(self.message)  # type: ignore[call-arg]
        made.add_note(self.trace)
        return made


def opened(batch: "Batch | Failure") -> Batch:
    """The batch of a loader.

    Raises:
        ZooExpError: the error that took its place; the message names task and sample.
        UnexpectedError: the same for a bug.
    """
    if isinstance(batch, Failure):
        raise batch.error()
    return batch


class Pending(Dataset["Sample | Failure"]):
    """The samples of `task` with the row numbers `numbers`; a `Failure` where a row cannot be read."""

    def __init__(self, task: Task, rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> None:
        self.task, self.rows, self.numbers = task, rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Sample | Failure:
        number = self.numbers[place]
        try:
            doc = self.rows[number]
            check_row(self.task, doc)
            return Sample(number, self.task.sample_id(doc), doc, source_of(self.rows, number))
        except Exception as error:
            return Failure.of(error, f"{self.task.name}, row {number}", source_of(self.rows, number))


def source_of(rows: Sequence[dict[str, Any]], number: int) -> str:
    """File and row of a task's row; empty where rows lie in no parquet file."""
    table = getattr(rows, "table", None)
    return table.place_of(rows.kept[number]) if isinstance(table, ParquetRows) else ""  # type: ignore[attr-defined]


def shard(todo: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The rank's share of `todo`, without padding.

    A rank whose share is empty gets the last sample again, because Lightning stops at an empty loader. Records are
    keyed by sample, so a repeated one is harmless.
    """
    return list(todo[rank::world_size] or todo[-1:])


def make_loader(
    pending: Pending, collate: Callable[[list[Sample]], Batch], batch_size: int, workers: int
) -> DataLoader[Batch | Failure]:
    """Batches in order; see `opened`."""
    return DataLoader(
        pending,  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=False,
        num_workers=workers,
        collate_fn=Guarded(collate, pending.task.name),  # type: ignore[arg-type]
        worker_init_fn=_start_worker,
    )


def _start_worker(worker: int) -> None:
    """Leave signals to the main process, which finishes its batch and ends the workers; end when it is killed.

    A signal to the process group or to all processes of a SLURM step reaches workers too. A worker shares the open lock
    files of the run: if it outlived a killed main process, the run could not be resumed at once.
    """
    for number in (*stop.SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guarded:
    """A collate function that returns a `Failure` instead of raising.

    Args:
        collate: makes a batch of samples.
        task: name of the task, for messages.
    """

    def __init__(self, collate: Callable[[list[Sample]], Batch], task: str) -> None:
        self.collate, self.task = collate, task

    def __call__(self, samples: list[Sample | Failure]) -> Batch | Failure:
        """The batch, or the error of the first sample that has one."""
        whole: list[Sample] = []
        for sample in samples:
            if isinstance(sample, Failure):
                return sample
            whole.append(sample)
        try:
            return self.collate(whole)
        except Exception as error:
            return self._blame(whole, error)

    def _blame(self, samples: list[Sample], error: Exception) -> Failure:
        """The error with the sample that causes it: the first that fails alone, or all of them."""
        for sample in samples if len(samples) > 1 else []:
            try:
                self.collate([sample])
            except Exception as alone:
                return Failure.of(alone, f"{self.task}, {named([sample.id])}", sample.source)
        source = samples[0].source if len(samples) == 1 else ""
        return Failure.of(error, f"{self.task}, {named([sample.id for sample in samples])}", source)


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
        try:
            return Batch(samples, chat_inputs(self.processor, chats))
        except ValueError:
            reasons = [self._refusal(chat) for chat in chats]
            if not any(reasons):
                raise
        fine = [place for place, reason in enumerate(reasons) if reason is None]
        inputs = chat_inputs(self.processor, [chats[place] for place in fine]) if fine else {}
        refused = [(sample, reason) for sample, reason in zip(samples, reasons, strict=True) if reason]
        return Batch([samples[place] for place in fine], inputs, refused)

    def _refusal(self, chat: Chat) -> str | None:
        """Why the processor refuses an image of a prompt, such as one of 2000 x 9 pixels on Qwen2.5-VL."""
        for image in chat.images:
            try:
                self.processor.image_processor(images=[image], return_tensors="pt")
            except ValueError as error:
                why = next(iter(str(error).strip().splitlines()), type(error).__name__)
                return f"the processor refuses the image of {image.width} x {image.height} pixels: {why}"
        return None
