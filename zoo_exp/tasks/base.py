"""What a benchmark is: its rows, its prompt, how an answer scores, and what the scores add up to."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.tasks.columns import Columns, check_columns
from zoo_exp.tasks.images import decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

Doc = Mapping[str, Any]
Parts = dict[str, Any]


@dataclass(frozen=True)
class DataSource:
    """Where rows come from: a hub data set, or `kind="embedded"` for the benchmarks inside the package.

    Attributes:
        repo: hub id, such as "lmms-lab-encoder/POPE" (embedded: empty for world 1, a view of world 2).
        split: name of the split.
        config: configuration of the data set, None for its default.
        rows: rows of the official split, None where nobody counted.
        revision: branch, tag or commit of the hub repository.
        images_config: second configuration that holds the images, joined by the task's `image_key` (GQA).
        kind: `hub` or `embedded`.
    """

    repo: str
    split: str
    config: str | None = None
    rows: int | None = None
    revision: str = "main"
    images_config: str | None = None
    kind: str = "hub"


def embedded(family: str) -> DataSource:
    """The rows of a benchmark inside the package, in the columns of the official data set."""
    return DataSource("", "test", family, kind="embedded")


@dataclass(frozen=True)
class GenerationSettings:
    """How an answer is decoded; every task decodes greedily.

    Attributes:
        max_new_tokens: maximum length in tokens; None for the default of the model's generation config.
        until: texts that end an answer.
    """

    max_new_tokens: int | None
    until: tuple[str, ...] = ("\n\n",)


@dataclass(frozen=True)
class Scale:
    """Unit and range of a task's metrics; every number of that task is displayed by it.

    Attributes:
        unit: `fraction` (0 to 1, displayed in percent), `percent`, `points`, or `answers` (a count, no score).
        maximum: the best possible value, infinite for a count.
    """

    unit: Literal["fraction", "percent", "points", "answers"]
    maximum: float

    @property
    def factor(self) -> float:
        """What a value is multiplied by for display: fractions are shown in percent."""
        return 100.0 if self.unit == "fraction" else 1.0

    def __str__(self) -> str:
        """The range in words: `0-1`, `0-100`, `points of 2800`, `answers`."""
        words = {"points": f"points of {self.maximum:g}", "answers": "answers"}
        return words.get(self.unit, f"0-{self.maximum:g}")


FRACTION = Scale("fraction", 1.0)
PERCENT = Scale("percent", 100.0)
ANSWERS = Scale("answers", inf)


class Tally(NamedTuple):
    """What one unit (a question, an MME pair, an MMBench rotation group) adds to named sums.

    Attributes:
        unit: name of the unit, as `Task.unit_name` gives it for its rows.
        counts: name of a sum -> what the unit adds.
        score: how good the unit's responses are, 0 to 1: arms are compared in pairs by it.
    """

    unit: str
    counts: dict[str, float]
    score: float


@dataclass(frozen=True)
class Task(ABC):
    """One benchmark. A subclass says what is asked and how one answer scores; this class checks what goes in.

    Attributes:
        name: the id that a user types.
        source: where the rows come from.
    """

    name: str
    source: DataSource

    family: ClassVar[str]
    summary: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """Columns that the data must have."""
    scored_columns: ClassVar[tuple[str, ...]]
    """Those of them that `score` reads."""
    kinds: ClassVar[Columns] = MappingProxyType({})
    """Column -> what it must hold, for the columns that are read; some of them may be missing."""
    generation: ClassVar[GenerationSettings]
    main_metric: ClassVar[str] = "exact_match"
    scale: ClassVar[Scale] = FRACTION
    """Unit and range of `main_metric` and of the other metrics of the task."""
    mean_of_units: ClassVar[bool] = True
    """Whether `main_metric` is the mean of the units' scores, times `scale.maximum`: a proportion if all are 0 or 1."""
    submission_only: ClassVar[bool] = False
    """True where the answers are hidden: `score` then gives the answer to hand in, and a score of None."""
    row_filter: ClassVar[tuple[str, str] | None] = None
    """(column, value) of the rows that belong to the task, None for all."""
    unit_column: ClassVar[str | None] = None
    """Column that tells which neighbouring rows score together (see `unit`); a limit never separates them."""

    @abstractmethod
    def prompt(self, doc: Doc, model_family: str) -> str:
        """The text of the question for a model family.

        The reference's families with a prompt of their own are honoured by their exact name (`qwen_vl` ...),
        `embedded` gets the bare question and options, and any other name gets the default.
        """

    @abstractmethod
    def sample_id(self, doc: Doc) -> str:
        """A name of the row that is unique in the task and the same in every run."""

    @abstractmethod
    def reference(self, doc: Doc) -> str:
        """The right answer for human eyes."""

    @abstractmethod
    def _score(self, doc: Doc, response: str) -> Parts:
        """The parts of one stripped response's score."""

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """What each independent unit of the rows adds to the sums that `metrics` reads.

        A task whose metric is no mean of scores overrides this and `metrics`.
        """
        return [Tally(self.unit_name(row), {"score": row["score"], "n": 1.0}, row["score"]) for row in rows]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """The task's metrics from sums of tallies: floats, or numpy arrays of resampled sums."""
        return {self.main_metric: ratio(sums["score"], sums["n"])}

    def complete(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The rows of complete units: what the value of a run in progress is computed from."""
        return rows

    def unit(self, value: Any) -> object:
        """What rows that score together share, from a value of `unit_column`."""
        return value

    def unit_name(self, row: Mapping[str, Any]) -> str:
        """Name of the unit that a row with its score parts belongs to: by default every row is one."""
        return str(row["sample_id"])

    def image_id(self, doc: Doc) -> str:
        """Name of the row's image in the data set: rows that share it are not independent."""
        return self.sample_id(doc)

    def image_name(self, doc: Doc) -> str:
        """Name of the row's image in the records; embedded tasks ask about the same scenes and give their names."""
        return str(doc.get("scene") or self.image_id(doc))

    def image_key(self, image: str) -> str:
        """Name of an image that no other image has in any task.

        Tasks that show the same image give it the same key, so that resampling draws it for all of them at once.

        Args:
            image: what `image_name` gave.
        """
        return f"{'embedded' if self.source.kind == 'embedded' else self.family}/{image}"

    def question(self, doc: Doc) -> str:
        """The question for human eyes."""
        return str(doc["question"]).strip()

    def images(self, doc: Doc) -> "list[Image]":
        """The row's images in RGB, in the order in which the model gets them.

        Raises:
            MissingFileError: an image cannot be decoded.
        """
        return [decode_image(doc["image"], f"{self.name}, sample {self.sample_id(doc)}")]

    def content(self, doc: Doc, model_family: str) -> "list[str | Image]":
        """The user turn as the reference shows it to chat models: images first, then the prompt."""
        return [*self.images(doc), self.prompt(doc, model_family)]

    def score(self, doc: Doc, response: str) -> Parts:
        """Score one response.

        Returns:
            JSON-serialisable parts that `aggregate` needs, `score` in [0, 1] among them.

        Raises:
            InvalidValueError: the response is no string, or the row lacks a field.
        """
        if not isinstance(response, str):
            raise InvalidValueError(
                f"{self.name}: a response must be a string, got {type(response).__name__} ({response!r:.60})"
            )
        self.require(doc, self.scored_columns)
        if "answer" in self.scored_columns and doc["answer"] is None:
            raise InvalidValueError(f"{self.name}: the row has no answer to compare with")
        check_columns(self.kinds, doc, self.name)
        try:
            return self._score(doc, response.strip())
        except ZooExpError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            given = {name: doc[name] for name in self.scored_columns}
            raise InvalidValueError(
                f"{self.name}: cannot score a row with {given!r:.200}: {error}"
            ) from error

    def aggregate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The task's metrics over `{"sample_id": ..., **score parts}` rows, in any order.

        Raises:
            InvalidValueError: no rows, or two rows with one sample id.
        """
        if not rows:
            raise InvalidValueError(f"{self.name}: no rows to aggregate")
        ids = Counter(row["sample_id"] for row in rows)
        if len(ids) < len(rows):
            twice, n = ids.most_common(1)[0]
            raise InvalidValueError(f"{self.name}: {n} rows have the sample id '{twice}', each needs its own")
        return self.metrics(exact_sums(self.tallies(rows)))

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Metrics of named groups of rows, such as categories; empty where the task has none."""
        return {}

    def details(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metrics over all rows that readers expect beside the main one; empty where the task has none."""
        return {}

    def detail_scale(self, metric: str) -> Scale:
        """Unit of a metric of `details` or `breakdown`."""
        return FRACTION

    def require(self, doc: Doc, fields: Sequence[str]) -> None:
        """Refuse a row without some of the `fields`."""
        missing = [name for name in fields if name not in doc]
        if missing:
            raise InvalidValueError(
                f"{self.name}: the row lacks {', '.join(missing)}; "
                f"it has {', '.join(map(str, doc)) or 'nothing'}"
            )


def coco_key(image: str) -> str:
    """Key of a COCO image from its number or its file name, which ends in the number.

    >>> coco_key("42"), coco_key("COCO_val2014_000000000042")
    ('coco/42', 'coco/42')
    """
    number = image.rsplit("_", 1)[-1]
    return f"coco/{int(number)}" if number.isdecimal() else f"coco/{image}"


def exact_sums(tallies: Iterable[Tally]) -> dict[str, float]:
    """Sums by name, correctly rounded: they depend neither on the order of rows nor on the number of processes."""
    sums: dict[str, list[float]] = defaultdict(list)
    for tally in tallies:
        for key, value in tally.counts.items():
            sums[key].append(value)
    return {key: fsum(values) for key, values in sums.items()}


class Submission:
    """Mixin to put before a task's class: references are hidden, responses are collected for an evaluation server."""

    main_metric: ClassVar[str] = "submission"
    scale: ClassVar[Scale] = ANSWERS
    submission_only: ClassVar[bool] = True

    def reference(self, doc: Doc) -> str:
        """A placeholder."""
        return "(hidden)"

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Every row is one response to submit."""
        return [Tally(str(row["sample_id"]), {"submission": 1.0}, 0.0) for row in rows]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Number of responses to submit."""
        return {"submission": sums["submission"]}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Empty: nothing is known before the server answers."""
        return {}


def ratio(part: Any, whole: Any, empty: float = 0.0) -> Any:
    """`part / whole`, `empty` where the whole is 0; floats or numpy arrays."""
    if isinstance(whole, float):
        return part / whole if whole else empty
    return (part + (whole == 0) * empty) / (whole + (whole == 0))


def mean(values: Iterable[float]) -> float:
    """Mean that does not depend on the order of the values."""
    numbers = list(values)
    return fsum(numbers) / len(numbers)


SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_lines(options: Sequence[str]) -> str:
    """Lines "A. text" without a final line break."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
