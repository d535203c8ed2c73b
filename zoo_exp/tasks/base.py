"""Base class of benchmarks: data source, prompt, scoring and metrics."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.tasks.columns import Columns, check_columns
from zoo_exp.tasks.images import decode_image
from zoo_exp.tasks.scale import FRACTION, Scale

if TYPE_CHECKING:
    from PIL.Image import Image

Doc = Mapping[str, Any]
Parts = dict[str, Any]
UNREADABLE = "unreadable"
"""Score part of a response without the kind of answer that the prompt asks for; other responses do not have it."""


@dataclass(frozen=True)
class DataSource:
    """Source of the rows: a hub data set, or `kind="embedded"` for the benchmarks in the package.

    Attributes:
        repo: hub id, such as "lmms-lab-encoder/POPE" (embedded: empty for world 1, a view of world 2).
        split: name of the split.
        config: configuration of the data set, None for its default.
        rows: number of rows of the official split, None if unknown.
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
    """Source of a benchmark in the package, with the columns of the official data set."""
    return DataSource("", "test", family, kind="embedded")


@dataclass(frozen=True)
class GenerationSettings:
    """Decoding settings; every task uses greedy decoding.

    Attributes:
        max_new_tokens: maximum number of generated tokens; None for the default of the model's generation config.
        until: stop texts.
    """

    max_new_tokens: int | None
    until: tuple[str, ...] = ("\n\n",)


class Tally(NamedTuple):
    """Contribution of one unit (a question, an MME pair, an MMBench rotation group) to named sums.

    Attributes:
        unit: name of the unit, as returned by `Task.unit_name` for its rows.
        counts: name of a sum -> contribution of the unit.
        score: score of the unit's responses, 0 to 1, for paired comparisons of arms.
    """

    unit: str
    counts: dict[str, float]
    score: float


@dataclass(frozen=True)
class Task(ABC):
    """A benchmark. Subclasses define prompt, scoring and metrics; this class validates their inputs.

    Attributes:
        name: id of the task.
        source: source of the rows.
    """

    name: str
    source: DataSource

    family: ClassVar[str]
    summary: ClassVar[str]
    embedded_summary: ClassVar[str] = ""
    """What the questions about the drawn scenes inside the package ask; they share the form, not the content."""
    columns: ClassVar[tuple[str, ...]]
    """Required columns of the data."""
    scored_columns: ClassVar[tuple[str, ...]]
    """The subset of them that `score` reads."""
    kinds: ClassVar[Columns] = MappingProxyType({})
    """Column -> what it must hold, for the columns that are read; some of them may be missing."""
    generation: ClassVar[GenerationSettings]
    main_metric: ClassVar[str] = "exact_match"
    scale: ClassVar[Scale] = FRACTION
    """Unit and range of `main_metric` and of the other metrics of the task."""
    mean_of_units: ClassVar[bool] = True
    """Whether `main_metric` is the mean of the units' scores times `scale.maximum` (a proportion if all are 0 or 1)."""
    submission_only: ClassVar[bool] = False
    """Whether reference answers are hidden: `score` then returns the answer for the submission file, and score None."""
    row_filter: ClassVar[tuple[str, str] | None] = None
    """(column, value) that selects the rows of the task, None for all."""
    answer_form: ClassVar[str] = ""
    """What a response must contain so that the scorer can read it, for messages; empty if any text is an answer."""
    unit_column: ClassVar[str | None] = None
    """Column that identifies rows that are scored together (see `unit`); a limit never separates them."""
    separable: ClassVar[bool] = True
    """Whether `tallies` of some units does not depend on the others, so that a complete unit can be summed up."""
    rows_per_unit: ClassVar[int] = 1
    """Rows of a typical unit, for estimates."""

    @abstractmethod
    def prompt(self, doc: Doc, model_family: str) -> str:
        """Prompt text of a question for a model family.

        Families with a specific prompt in the reference are selected by their exact name (`qwen_vl` ...). `embedded`
        gets only the question and options, and any other name the default prompt.

        Args:
            doc: a row of the data.
            model_family: name of the family.
        """

    @abstractmethod
    def sample_id(self, doc: Doc) -> str:
        """Id of the row, unique in the task and the same in every run."""

    @abstractmethod
    def reference(self, doc: Doc) -> str:
        """The reference answer, for display."""

    @abstractmethod
    def _score(self, doc: Doc, response: str) -> Parts:
        """Score parts of one stripped response."""

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether a stripped response contains an answer of the task's `answer_form`.

        It does not change the score. A model that answers yes/no questions with something else does not just prefer
        wrong answers: its numbers say little about what it sees.

        Args:
            doc: a row of the data.
            response: what the model generated.
        """
        return True

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Contributions of each independent unit to the sums that `metrics` reads.

        Tasks whose metric is not a mean of scores override this and `metrics`.
        """
        return [Tally(self.unit_name(row), {"score": row["score"], "n": 1.0}, row["score"]) for row in rows]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the task's metrics from sums of tallies: floats, or numpy arrays of resampled sums."""
        return {self.main_metric: ratio(sums["score"], sums["n"])}

    def unit(self, value: Any) -> object:
        """Unit of a value of `unit_column`, equal for rows that are scored together."""
        return value

    def unit_name(self, row: Mapping[str, Any]) -> str:
        """Name of the unit of a row with its score parts; by default, every row is a unit."""
        return str(row["sample_id"])

    def image_id(self, doc: Doc) -> str:
        """Name of the row's image in the data set; rows that share an image are not independent."""
        return self.sample_id(doc)

    def image_name(self, doc: Doc) -> str:
        """Name of the row's image in the records; embedded tasks share scenes and use their names."""
        return str(doc.get("scene") or self.image_id(doc))

    def image_key(self, image: str) -> str:
        """Globally unique key of an image.

        Tasks that share an image use the same key for it, so that it is resampled for all of them together.

        Args:
            image: result of `image_name`.
        """
        return f"{'embedded' if self.source.kind == 'embedded' else self.family}/{image}"

    def question(self, doc: Doc) -> str:
        """The question, for display."""
        return str(doc["question"]).strip()

    def images(self, doc: Doc) -> "list[Image]":
        """The row's images in RGB, in the order of the model input.

        Raises:
            MissingFileError: an image cannot be decoded.
        """
        return [decode_image(doc["image"], f"{self.name}, sample {self.sample_id(doc)}")]

    def content(self, doc: Doc, model_family: str) -> "list[str | Image]":
        """Content of the user turn, as in the reference for chat models: images, then the prompt.

        Args:
            doc: a row of the data.
            model_family: see `prompt`.
        """
        return [*self.images(doc), self.prompt(doc, model_family)]

    def score(self, doc: Doc, response: str) -> Parts:
        """Score one response.

        Args:
            doc: a row of the data.
            response: what the model generated.

        Returns:
            JSON-serialisable score parts for `aggregate`, including `score` in [0, 1], and `unreadable` (True) for a
            response without an answer of the task's `answer_form`.

        Raises:
            InvalidValueError: the response is not a string, or the row lacks a field.
        """
        if not isinstance(response, str):
            raise InvalidValueError(
                f"{self.name}: a response must be a string, got {type(response).__name__} ({response!r:.60})"
            )
        self.require(doc, self.scored_columns)
        if "answer" in self.scored_columns and doc["answer"] is None:
            raise InvalidValueError(f"{self.name}: the row has no reference answer")
        check_columns(self.kinds, doc, self.name)
        try:
            parts = self._score(doc, response.strip())
            marked = self.answer_form and not self.readable(doc, response.strip())
            return {**parts, UNREADABLE: True} if marked else parts
        except ZooExpError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            given = {name: doc[name] for name in self.scored_columns}
            raise InvalidValueError(
                f"{self.name}: cannot score a row with {given!r:.200}: {error}"
            ) from error

    def aggregate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Compute the task's metrics over rows `{"sample_id": ..., **score parts}`, in any order.

        Raises:
            InvalidValueError: no rows, or duplicate sample ids.
        """
        if not rows:
            raise InvalidValueError(f"{self.name}: no rows to aggregate")
        ids = Counter(row["sample_id"] for row in rows)
        if len(ids) < len(rows):
            twice, n = ids.most_common(1)[0]
            raise InvalidValueError(f"{self.name}: {n} rows have the sample id '{twice}', ids must be unique")
        return self.metrics(exact_sums(self.tallies(rows)))

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Metrics of named groups of rows, such as categories; empty if the task has none."""
        return {}

    def details(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Secondary metrics over all rows; empty if the task has none."""
        return {}

    def detail_scale(self, metric: str) -> Scale:
        """Unit of a metric of `details` or `breakdown`."""
        return FRACTION

    def require(self, doc: Doc, fields: Sequence[str]) -> None:
        """Check that a row has all `fields`.

        Args:
            doc: a row of the data.
            fields: names of columns.

        Raises:
            InvalidValueError: one is missing.
        """
        missing = [name for name in fields if name not in doc]
        if missing:
            raise InvalidValueError(
                f"{self.name}: the row lacks {', '.join(missing)}; "
                f"it has {', '.join(map(str, doc)) or 'nothing'}"
            )


def exact_sums(tallies: Iterable[Tally]) -> dict[str, float]:
    """Correctly rounded sums by name, independent of the order of rows and the number of processes."""
    sums: dict[str, list[float]] = defaultdict(list)
    for tally in tallies:
        for key, value in tally.counts.items():
            sums[key].append(value)
    return {key: fsum(values) for key, values in sums.items()}


def ratio(part: Any, whole: Any, empty: float = 0.0) -> Any:
    """`part / whole`, or `empty` if the whole is 0.

    Args:
        part: float or numpy array.
        whole: the same.
        empty: result for a whole of 0.

    >>> ratio(3.0, 4.0), ratio(0.0, 0.0)
    (0.75, 0.0)
    """
    if isinstance(whole, float):
        return part / whole if whole else empty
    return (part + (whole == 0) * empty) / (whole + (whole == 0))


def mean(values: Iterable[float]) -> float:
    """Mean that is independent of the order of the values.

    >>> mean([0.1, 0.2, 0.3]) == mean([0.3, 0.2, 0.1])
    True
    """
    numbers = list(values)
    return fsum(numbers) / len(numbers)


SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
YES_NO = "yes or no"
OPTION_LETTER = "the letter of an option"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_lines(options: Sequence[str]) -> str:
    r"""Lines "A. text", without a trailing line break.

    >>> option_lines(["cat", "dog"])
    'A. cat\nB. dog'
    """
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
