"""Scores of yes/no answers: confusion counts of POPE, points of MME."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from zoo_exp.errors import InvalidValueError

PERCEPTION = frozenset(
    ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
)


def gold_yes_no(answer: str) -> str:
    """The reference answer, which must be yes or no.

    Raises:
        InvalidValueError: it is neither.
    """
    if answer not in ("yes", "no"):
        raise InvalidValueError(f"the reference answer is '{answer}', but must be yes or no")
    return answer


def pope_counts(prediction: str, gold: str) -> dict[str, float]:
    """Counts of one response: correct, true positive, false positive, false negative.

    A response that is neither yes nor no is not a false negative: it only reduces the accuracy.
    """
    return {
        "n": 1.0,
        "right": float(prediction == gold),
        "yes": float(gold == "yes"),
        "hit": float(prediction == gold == "yes"),
        "false_yes": float(prediction == "yes" and gold == "no"),
        "false_no": float(prediction == "no" and gold == "yes"),
    }


@dataclass(frozen=True)
class MMEImage:
    """Points of an image's two questions: `accuracy` per question and `both_right`, 0 to 100 each."""

    category: str
    name: str
    accuracy: float
    both_right: float

    @property
    def points(self) -> float:
        """The image's points, 0 to 200."""
        return self.accuracy + self.both_right


class UnpairedError(InvalidValueError):
    """An MME image that does not have exactly two questions."""

    def __init__(self, category: str, image: str, found: int, images: int) -> None:
        self.category, self.image = category, image
        super().__init__(
            f"MME: image '{image}' of {category} has {found} question(s) instead of 2 "
            f"({images} such image(s)): complete pairs are required"
        )


def mme_images(rows: Iterable[tuple[str, str, float]]) -> list[MMEImage]:
    """Points of every image from (category, image, right 0 or 1) rows.

    Raises:
        UnpairedError: some images do not have exactly two rows; the message names the first one.
    """
    images: dict[tuple[str, str], list[float]] = defaultdict(list)
    for category, image, right in rows:
        images[category, image].append(right)
    odd = sorted(key for key, right in images.items() if len(right) != 2)
    if odd:
        raise UnpairedError(*odd[0], len(images[odd[0]]), len(odd))
    return [
        MMEImage(category, image, 50 * sum(right), 100 * float(sum(right) == 2))
        for (category, image), right in images.items()
    ]
