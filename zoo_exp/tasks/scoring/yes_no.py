"""Aggregates of the yes/no benchmarks: POPE's five numbers, MME's points (spec: benchmarks 5, 6)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

from zoo_exp.core.errors import InvalidValueError

PERCEPTION = frozenset(
    ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
)


def pope_metrics(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The five POPE numbers of (prediction, gold) pairs, gold being `yes` or `no`.

    A prediction that is neither word lowers accuracy only; the yes ratio is the gold's, as in the reference.
    """
    n = len(pairs)
    right = sum(prediction == gold for prediction, gold in pairs)
    hit = sum(prediction == gold == "yes" for prediction, gold in pairs)
    false_yes = sum(prediction == "yes" and gold == "no" for prediction, gold in pairs)
    false_no = sum(prediction == "no" and gold == "yes" for prediction, gold in pairs)
    precision = hit / (hit + false_yes) if hit + false_yes else 0.0
    recall = hit / (hit + false_no) if hit + false_no else 0.0
    return {
        "pope_accuracy": right / n,
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_f1_score": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "pope_yes_ratio": sum(gold == "yes" for _, gold in pairs) / n,
    }


@dataclass(frozen=True)
class MMECategory:
    """Points of one MME category: `accuracy` per question and `both_right` per image, 0 to 100 each."""

    accuracy: float
    both_right: float

    @property
    def points(self) -> float:
        """The category's share of the score, 0 to 200."""
        return self.accuracy + self.both_right


def mme_categories(rows: Iterable[tuple[str, str, float]]) -> dict[str, MMECategory]:
    """Points per category of (category, image, right 0 or 1) rows; an image has exactly two questions.

    Raises:
        InvalidValueError: images without their pair, the first of them named.
    """
    images: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for category, image, right in rows:
        images[category][image].append(right)
    odd = [(image, len(r)) for of in images.values() for image, r in of.items() if len(r) != 2]
    if odd:
        image, n = min(odd)
        raise InvalidValueError(
            f"MME: image '{image}' has {n} question(s) instead of 2 ({len(odd)} such image(s)): "
            "its score counts pairs, so give complete pairs (with a limit: an even one)"
        )
    return {
        category: MMECategory(
            accuracy=100 * fsum(sum(right) / 2 for right in of.values()) / len(of),
            both_right=100 * fsum(float(sum(right) == 2) for right in of.values()) / len(of),
        )
        for category, of in images.items()
    }
