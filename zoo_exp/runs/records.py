"""Rows of a run folder: records, timings and masks, as typed dataclasses with a schema version.

Version 2 is written. Version 1 (rows without the key `version`) can still be read; newer versions are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from types import NoneType
from typing import Any, Self

from zoo_exp.errors import InvalidValueError
from zoo_exp.files import DamagedRowError, Row

VERSION = 2
LARGEST_GRID = 4096
"""Maximum rows or columns of a token grid; protects readers from files made to exhaust their memory."""
LARGEST_COUNT = 2**53
Types = Mapping[str, tuple[type, ...]]
_OPTIONAL = ("prefill_tflop", "selector_tflop")
"""Fields of a record that were added after the first rows of version 2."""
NOT_APPLICABLE, ARMS_IN_CALL = "not_applicable", "arms_in_call"
"""Keys of a record of a question that its arm cannot answer, and of a timing whose arm shared calls with others."""
_MILLISECONDS = ("vision_ms", "select_ms", "prefill_decode_ms", "spent_ms")
_JSON: dict[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    str | None: (str, NoneType),
    int | None: (int, NoneType),
    float | None: (float, int, NoneType),
    Mapping[str, Any]: (dict,),
    Any: (),
}
"""Annotation of a field -> allowed Python types of its JSON value; tuples are stored as lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The result of one question under one arm.

    Attributes:
        version: schema version.
        task: name of the task.
        cell: id of the cell (hash of model, weights, task, data and seed).
        arm: label of the arm, unique in its experiment.
        arm_id: hash of selector, all options, budget and seed.
        row: label of the arm's table row: the label without the seed.
        selector: name of the selector.
        options: options of the selector from the configuration.
        budget: the budget as the user wrote it; None for `full` and `blind`.
        seed: number of the repetition, from 0.
        sample_id: id of the question.
        image_id: id of the image; questions about one image form one cluster of the bootstrap.
        question: text of the question.
        reference: the reference answer, or answers.
        response: the generated text.
        score: 0 to 1; None if only the benchmark's server can score.
        parts: score parts from which the task computes its metrics.
        kept_tokens: visual tokens that entered the language model.
        layer_tokens: mean over decoder layers of the visual tokens at their input; layer selectors only.
        n_visual: visual tokens before pruning.
        prompt_tokens: length of the language model's prompt, including visual tokens.
        new_tokens: generated tokens, including the end-of-sequence token.
        flops_tflop: TFLOP per response: vision encoder, selector, prefill and decoding.
        prefill_tflop: the part of the prefill; None in older records.
        selector_tflop: the part of the selector, including scoring; None in older records.
        not_applicable: why the arm has no response to this question; the key is written only where there is a reason.
    """

    version: int = VERSION
    task: str
    cell: str
    arm: str
    arm_id: str
    row: str
    selector: str
    options: Mapping[str, Any]
    budget: str | None
    seed: int
    sample_id: str
    image_id: str
    question: str
    reference: Any
    response: str
    score: float | None
    parts: Mapping[str, Any]
    kept_tokens: int
    layer_tokens: float | None
    n_visual: int
    prompt_tokens: int | None
    new_tokens: int | None
    flops_tflop: float | None
    prefill_tflop: float | None = None
    selector_tflop: float | None = None
    not_applicable: str | None = None

    def to_row(self) -> Row:
        """Convert to JSON values, in a fixed order of keys."""
        row = {name: getattr(self, name) for name in _RECORD}
        return row if self.not_applicable is None else row | {NOT_APPLICABLE: self.not_applicable}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Create a record from a row of version 1 or 2.

        Raises:
            DamagedRowError: the row is not a valid record; the message gives the reason.
            InvalidValueError: the row has a newer version.
        """
        checked = record_row(row)
        return cls(**{name: checked[name] for name in _RECORD}, not_applicable=checked.get(NOT_APPLICABLE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of one arm on one batch, in milliseconds for the whole batch.

    Attributes:
        sample_ids: questions of the batch; empty in rows of version 1.
        vision_ms: the vision pass, shared by all arms.
        select_ms: the selector, including scoring in full.
        prefill_decode_ms: the language model.
        spent_ms: wall time of the arm, without scores that an earlier arm has computed.
        arms_in_call: arms that one call answered, each with its share of the time; the key is written only if several.
    """

    version: int = VERSION
    task: str
    cell: str
    arm: str
    arm_id: str
    sample_ids: tuple[str, ...]
    batch_size: int
    vision_ms: float | None
    select_ms: float | None
    prefill_decode_ms: float | None
    spent_ms: float | None
    arms_in_call: int = 1

    def to_row(self) -> Row:
        """Convert to JSON values, in a fixed order of keys."""
        row = {name: getattr(self, name) for name in _TIMING} | {"sample_ids": list(self.sample_ids)}
        return {name: row[name] for name in row if name != ARMS_IN_CALL or row[name] > 1}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Create a timing from a row of version 1 or 2; raises the errors of `Record.from_row`."""
        new = {ARMS_IN_CALL: 1} | dict(row)
        if version_of(row) == 1:
            new = dict.fromkeys(_MILLISECONDS) | {"cell": "", "arm_id": "", "sample_ids": []} | new
            new["version"] = VERSION
        _check(new, _TIMING)
        if new["batch_size"] < 1:
            raise DamagedRowError(f"batch_size is {_short(new['batch_size'])}")
        _check_amounts(new, (*_MILLISECONDS, ARMS_IN_CALL))
        if not all(type(name) is str for name in new["sample_ids"]):
            raise DamagedRowError("sample_ids contains values that are not strings")
        return cls(**{name: new[name] for name in _TIMING} | {"sample_ids": tuple(new["sample_ids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskArm:
    """Kept tokens and response of one arm.

    Attributes:
        indices: grid cells of kept tokens, ascending, counted row by row from 0.
    """

    arm: str
    arm_id: str
    indices: tuple[int, ...]
    response: str
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRow:
    """Kept tokens of every arm for the image of one question.

    Attributes:
        grid: rows and columns of the token grid.
        image: path, inside the run folder, of the image as the model received it.
        arms: arms in the order of the experiment.
    """

    version: int = VERSION
    task: str
    cell: str
    sample_id: str
    question: str
    reference: Any
    grid: tuple[int, int]
    image: str
    arms: tuple[MaskArm, ...]

    def to_row(self) -> Row:
        """Convert to JSON values, in a fixed order of keys."""
        row = {name: getattr(self, name) for name in _MASK}
        arms = [{name: getattr(arm, name) for name in _MASK_ARM} for arm in self.arms]
        return row | {
            "grid": list(self.grid),
            "arms": [arm | {"indices": list(arm["indices"])} for arm in arms],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Create masks from a row of version 1 or 2; raises the errors of `Record.from_row`."""
        new: Row = dict(row)
        old = version_of(row) == 1
        if old:
            new = {"cell": "", "question": "", "reference": None} | new | {"version": VERSION}
        _check(new, _MASK)
        grid = new["grid"]
        if len(grid) != 2 or not all(type(n) is int and 1 <= n <= LARGEST_GRID for n in grid):
            raise DamagedRowError(f"grid is {_short(grid)}")
        arms = tuple(_mask_arm(arm, grid[0] * grid[1], old) for arm in new["arms"])
        values = {name: new[name] for name in _MASK}
        return cls(**values | {"grid": (grid[0], grid[1]), "arms": arms})


def _mask_arm(arm: Any, cells: int, old: bool) -> MaskArm:
    if not isinstance(arm, dict):
        raise DamagedRowError(f"arms holds {_short(arm)}")
    if old:
        arm = {"arm_id": "", "response": "", "score": None} | arm
    _check(arm, _MASK_ARM)
    indices = arm["indices"]
    if not all(type(n) is int and 0 <= n < cells for n in indices):
        raise DamagedRowError("an index lies outside the grid")
    _check_amounts(arm, ("score",))
    return MaskArm(**{name: arm[name] for name in _MASK_ARM} | {"indices": tuple(indices)})


def record_row(row: Mapping[str, Any]) -> Row:
    """Check a record and convert it to version 2.

    Raises:
        DamagedRowError: the row is not a valid record; the message gives the reason.
        InvalidValueError: the row has a newer version.
    """
    new = dict.fromkeys(_OPTIONAL) | (dict(row) if version_of(row) == VERSION else _record_of_version_1(row))
    _check(new, _RECORD)
    reason = new.get(NOT_APPLICABLE)
    if reason is not None and type(reason) is not str:
        raise DamagedRowError(f"{NOT_APPLICABLE} is {_short(reason)}")
    if reason is None and "score" not in (new["parts"] or {}):
        raise DamagedRowError(f"parts is {_short(new['parts'])}, without a score")
    score = new["score"]
    if score is not None and not 0 <= score <= 1:
        raise DamagedRowError(f"score is {_short(score)}, allowed is a number from 0 to 1")
    for name in ("kept_tokens", "n_visual", "seed", "prompt_tokens", "new_tokens"):
        count = new[name]
        if count is not None and not 0 <= count <= LARGEST_COUNT:
            raise DamagedRowError(f"{name} is {_short(count)}, allowed is a whole number from 0")
    _check_amounts(new, ("layer_tokens", "flops_tflop", *_OPTIONAL))
    return new


def arm_row(arm: Mapping[str, Any]) -> Row:
    """Convert an arm from a file of version 1 or 2 to the format of `Arm.as_dict`.

    Version 1 did not record the table row. It labelled an arm with repetitions `ROW seed N`, otherwise `ROW`, and
    recorded N, so that removing exactly this suffix restores the row.
    """
    if "row" in arm:
        return dict(arm)
    label, seed = arm["arm"], arm.get("seed_index") or 0
    return {
        "arm": label,
        "arm_id": arm.get("arm_id") or f"{label}#{seed}",
        "row": label.removesuffix(f" seed {seed}") if isinstance(label, str) else label,
        "selector": arm.get("selector") or label,
        "options": arm.get("options") or {},
        "budget": arm.get("budget"),
        "seed": seed,
    }


def _record_of_version_1(row: Mapping[str, Any]) -> Row:
    """Convert a record of version 1, which had no `row` and no `seed`, and many optional fields."""
    required = ("task", "arm", "sample_id", "response", "score", "kept_tokens")
    missing = [name for name in required if name not in row]
    if missing:
        raise DamagedRowError(f"it lacks {', '.join(missing)}")
    sample, image, n_visual = row["sample_id"], row.get("image_id"), row.get("n_visual")
    if type(sample) is int:
        sample = str(sample)
    new = {"cell": "", "question": "", "reference": None, **row, **arm_row(row)}
    for name in ("layer_tokens", "prompt_tokens", "new_tokens", "flops_tflop"):
        new.setdefault(name, None)
    return new | {
        "version": VERSION,
        "sample_id": sample,
        "image_id": f"sample {sample}" if image in (None, "") else str(image),
        "parts": row["parts"] if "parts" in row else {"score": row["score"]},
        # Without a count, a kept token proves that there was an image.
        "n_visual": row["kept_tokens"] if n_visual is None else n_visual,
    }


def version_of(row: Mapping[str, Any]) -> int:
    """The schema version of a row; raises the errors of `Record.from_row`."""
    version = row.get("version", 1)
    if type(version) is not int or version < 1:
        raise DamagedRowError(f"version is {_short(version)}")
    if version > VERSION:
        raise InvalidValueError(
            f"written by a newer zoo_exp (schema version {version}, this one reads 1 to {VERSION}): "
            "install the newer version"
        )
    return version


_checked: set[tuple[Any, ...]] = set()
"""Keys and value types of rows that passed the check: most rows of a file have the same."""


def _check(row: Mapping[str, Any], types: Types) -> None:
    """Check that a row has all keys, with values of the allowed types."""
    shape = (id(types), *row, *map(type, row.values()))
    if shape in _checked:
        return
    missing = [name for name in types if name not in row]
    if missing:
        raise DamagedRowError(f"it lacks {', '.join(missing)}")
    for name, allowed in types.items():
        if allowed and type(row[name]) not in allowed:
            raise DamagedRowError(f"{name} is {_short(row[name])}")
    if len(_checked) < 1000:
        _checked.add(shape)


def _check_amounts(row: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        value = row[name]
        if value is not None and not 0 <= value < inf:
            raise DamagedRowError(f"{name} is {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _types(schema: type) -> Types:
    return {field.name: _JSON.get(field.type, (list,)) for field in fields(schema)}


_RECORD, _TIMING, _MASK, _MASK_ARM = map(_types, (Record, Timing, MaskRow, MaskArm))
_RECORD = {name: types for name, types in _RECORD.items() if name != NOT_APPLICABLE}  # see `to_row`
