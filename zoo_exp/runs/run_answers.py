"""The records of a run in little memory: per task and arm, columns of what statistics need.

A record takes 13 bytes in a typical run, about 60 where all numbers differ, instead of a kilobyte. Its texts stay in
the files of the run, from which single records are read again where a view shows them (`Store.row`). Of the score
parts, those that many records share are kept.
"""

import json
import marshal
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from zoo_exp.errors import MissingFileError
from zoo_exp.files import Row, decode
from zoo_exp.runs.lines import Lines
from zoo_exp.runs.packed import BLOCK, Column, Numbers
from zoo_exp.runs.reading import ARM_COLUMNS, placed, record_files, recorded_path, without_collector
from zoo_exp.runs.records import NOT_APPLICABLE, record_row

if TYPE_CHECKING:
    import pandas as pd

MOST_PARTS = 20_000
"""Different score parts that are kept; others are read again."""
MEASURED = (
    "score",
    "kept_tokens",
    "layer_tokens",
    "n_visual",
    "flops_tflop",
    "prefill_tflop",
    "selector_tflop",
)
CODES = ("place", "sample", "image", "cell", "parts", "refused")
TEXTS = ("question", "reference", "response")


class Store:
    """What several records share, and the way to whole records.

    Attributes:
        parts: different score parts.
        reasons: why questions are not applicable; the first is empty.
        row: reads the record at a place again.
        files: where `row` reads; None for records that are in memory.
    """

    def __init__(self, row: Callable[[int], Row], files: Lines | None = None) -> None:
        self.row, self.files = row, files
        self.parts: list[Mapping[str, Any]] = []
        self.reasons: list[str] = [""]
        self._numbers: dict[bytes, int] = {}
        self._reasons: dict[str, int] = {"": 0}

    def parts_of(self, code: int, place: int) -> Mapping[str, Any]:
        """Score parts of a record by the numbers in its columns `parts` and `place`."""
        parts: Mapping[str, Any] = self.parts[code] if code >= 0 else self.row(place)["parts"]
        return parts

    def number(self, parts: Mapping[str, Any]) -> int:
        """Number of some score parts; -1 for those that are not kept."""
        key = marshal.dumps(dict(parts), 2)  # 1 and 1.0 are not taken for each other
        number = self._numbers.get(key, -1)
        if number < 0 and len(self.parts) < MOST_PARTS:
            number = self._numbers[key] = len(self.parts)
            self.parts.append(parts)
        return number

    def reason(self, text: str | None) -> int:
        """Number of a reason; 0 for none."""
        if not text:
            return 0
        if text not in self._reasons:
            self._reasons[text] = len(self.reasons)
            self.reasons.append(text)
        return self._reasons[text]


@dataclass(frozen=True)
class ArmAnswers:
    """Records of one arm in one task, one per question, in the order of reading.

    Attributes:
        label: of the arm.
        store: see `Store`.
        columns: by name; `MEASURED` as in the records (nan for None), `CODES`: place (of the record), sample, image
            and cell (numbers in `TaskAnswers`), parts and refused (see `Store`), and with texts `TEXTS`: hashes that
            differ between processes, 0 for an empty text.
    """

    label: str
    store: Store
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.columns["place"])

    def values(self, name: str) -> Numbers:
        """Numbers of a column [n]."""
        return self.columns[name].values()

    def where(self, chosen: Numbers) -> "ArmAnswers":
        """Some of the records.

        Args:
            chosen: whether a record is one of them [n].
        """
        if chosen.all():
            return self
        columns = {}
        for name, column in self.columns.items():
            columns[name] = Column(column.kind, column.values()[chosen])
            columns[name].pack(last=True)
        return replace(self, columns=columns)


@dataclass(frozen=True)
class TaskAnswers:
    """Records of one task.

    Attributes:
        name: of the task.
        sample_ids: ids of questions, by number.
        images: ids of images, by number.
        cells: ids of cells, by number; empty in old records.
        arms: arm id -> records, in order of appearance.
    """

    name: str
    sample_ids: list[str]
    images: list[str]
    cells: list[str]
    arms: Mapping[str, ArmAnswers]
    _order: dict[str, tuple[Numbers, Numbers]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def cell_ids(self) -> tuple[str, ...]:
        """The cells that have records, sorted."""
        used = set().union(*(np.unique(arm.values("cell")).tolist() for arm in self.arms.values()))
        return tuple(sorted(self.cells[number] for number in used if self.cells[number]))

    def with_arms(self, arms: Mapping[str, ArmAnswers]) -> "TaskAnswers":
        """The same task with other records."""
        return TaskAnswers(self.name, self.sample_ids, self.images, self.cells, arms)

    def record(self, arm: str, sample: int) -> Row | None:
        """The whole record of a question, by its number, under an arm; None if there is none."""
        if arm not in self.arms:
            return None
        own = self.arms[arm]
        if arm not in self._order:
            samples = own.values("sample")
            place = np.argsort(samples, kind="stable").astype(np.int32)
            self._order[arm] = place, samples[place].astype(np.int32)
        order, known = self._order[arm]
        where = int(np.searchsorted(known, sample))
        if where == len(known) or known[where] != sample:
            return None
        return own.store.row(int(own.columns["place"][int(order[where])]))


@dataclass(frozen=True)
class Answers:
    """Records of a run.

    Attributes:
        tasks: name -> records, in order of appearance.
        arms: the arms that have records, in order of appearance, as mappings for `statistics.arm_rows.group`.
    """

    tasks: Mapping[str, TaskAnswers]
    arms: list[dict[str, Any]]

    def __len__(self) -> int:
        return sum(len(arm) for task in self.tasks.values() for arm in task.arms.values())

    @classmethod
    def of(cls, rows: "Iterable[Mapping[str, Any]] | pd.DataFrame") -> Self:
        """From records as mappings, or from a data frame of them; missing values may be None or nan."""
        if not isinstance(rows, Iterable) or hasattr(rows, "columns"):
            frame: Any = rows
            rows = frame.to_dict("records")
        known = list(rows)
        store = Store(lambda place: dict(known[place]))
        return cls(*_collected(enumerate(map(_plain, known)), store, texts=True))

    def only(self, arms: Collection[str]) -> "Answers":
        """The records of some arms."""
        tasks = {
            name: task.with_arms({arm: own for arm, own in task.arms.items() if arm in arms})
            for name, task in self.tasks.items()
        }
        known = {name: task for name, task in tasks.items() if task.arms}
        return replace(self, tasks=known, arms=[arm for arm in self.arms if arm["arm_id"] in arms])


def read_answers(
    run: Path, arms: Collection[str] = (), cell: str | None = None, texts: bool = False
) -> Answers:
    """Read all records of a run, unique by (task, arm_id, sample_id).

    Args:
        run: the run folder.
        arms: ids of the arms to read; empty reads all.
        cell: id of the only cell to read; None reads all.
        texts: add hashes of question, reference answer and response, to compare arms.

    Raises:
        MissingFileError: there are no records, or a file cannot be read.
        InvalidValueError: a row was written by a newer version of the package.
    """
    path = recorded_path(run)
    files = Lines(record_files(run, cell if cell is None else [cell]))
    rows = (
        (place, row)
        for place, row in placed(files, arms=arms)
        if (not arms or row["arm_id"] in arms) and (cell is None or row["cell"] == cell)
    )
    with without_collector():
        store = Store(lambda place: record_row(decode(files.at(place))), files)
        found = Answers(*_collected(rows, store, texts))
    if not found.tasks:
        raise MissingFileError(f"{path} contains no records yet: rerun the same command to resume the run")
    return found


class _Arm:
    """Collects the records of one arm in one task."""

    def __init__(self, label: str, texts: bool) -> None:
        self.label = label
        self.columns = {name: Column("d") for name in MEASURED}
        self.columns |= {name: Column("q") for name in (*CODES, *(TEXTS if texts else ()))}
        self._all = list(self.columns.values())
        self._appends = [column.append for column in self._all]
        self._count = 0

    def add(self, values: Iterable[Any]) -> None:
        """Add a record: `MEASURED`, `CODES`, and `TEXTS` if they are wanted."""
        for append, value in zip(self._appends, values, strict=False):
            append(value)
        self._count += 1
        if self._count == BLOCK:
            self.pack()

    def pack(self, last: bool = False) -> None:
        """Pack the columns."""
        self._count = 0
        for column in self._all:
            column.pack(last)

    def done(self, store: Store) -> ArmAnswers:
        """All records; of those of one question, the first."""
        self.pack(last=True)
        found = ArmAnswers(self.label, store, self.columns)
        first = np.unique(found.values("sample"), return_index=True)[1]
        keep = np.zeros(len(found), bool)
        keep[first] = True
        return found.where(keep)


@dataclass
class _Task:
    """Collects the records of one task."""

    samples: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    arms: dict[str, _Arm] = field(default_factory=dict)
    cells: dict[str, int] = field(default_factory=dict)


def _collected(
    rows: Iterable[tuple[int, Mapping[str, Any]]], store: Store, texts: bool
) -> tuple[dict[str, TaskAnswers], list[dict[str, Any]]]:
    """Fields of `Answers` from records with their places."""
    tasks: dict[str, _Task] = {}
    arms: dict[str, dict[str, Any]] = {}
    for place, row in rows:
        task = tasks.get(row["task"])
        if task is None:
            task = tasks[row["task"]] = _Task()
        identity = row["arm_id"]
        arm = task.arms.get(identity)
        if arm is None:
            arm = task.arms[identity] = _Arm(row["arm"], texts)
            arms.setdefault(identity, {name: row.get(name) for name in ARM_COLUMNS})
        values = [math.nan if (value := row.get(name)) is None else value for name in MEASURED]
        values += (
            place,
            task.samples.setdefault(row["sample_id"], len(task.samples)),
            task.images.setdefault(row.get("image_id", ""), len(task.images)),
            task.cells.setdefault(row.get("cell", ""), len(task.cells)),
            store.number(row.get("parts") or {}),
            store.reason(row.get(NOT_APPLICABLE)),
        )
        if texts:
            values += (hash(_text(row.get(name))) for name in TEXTS)
        arm.add(values)
    found = {}
    for name, task in tasks.items():
        done = {identity: arm.done(store) for identity, arm in task.arms.items()}
        found[name] = TaskAnswers(name, list(task.samples), list(task.images), list(task.cells), done)
    return found, list(arms.values())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a data frame with None for nan."""
    return {name: None if value != value else value for name, value in row.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)
