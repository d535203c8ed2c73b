"""What `explore` does with a model: images to choose from, and questions about them. One question at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from zoo_exp import selectors
from zoo_exp.config.arms import expand
from zoo_exp.config.experiment import Arm, Experiment
from zoo_exp.config.offered import offered
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.models.loading import LoadedModel
from zoo_exp.overlays import overlaid
from zoo_exp.report.page_galleries import data_url
from zoo_exp.tasks.images import decode_image
from zoo_exp.workbench.questioner import NO_GRID, Looked, Panel, Questioner

MOST_PIXELS = 200_000_000
"""Pixels of all uploaded images in memory; the oldest ones are dropped first."""
MOST_ARMS = 12
"""Selectors in one request."""
MOST_QUESTION = 4000
"""Characters of a question."""
MOST_TOKENS = 512
"""Generated tokens of one response."""
SHOWN = 360
"""Longer side in pixels of a small image's figure."""


@dataclass(frozen=True)
class Sample:
    """An image to choose, with a question about it."""

    image: Image.Image
    question: str
    reference: str


class Studio:
    """The model and the images of one `explore`.

    Args:
        experiment: gives the model, its options of ZOO, the seed, and the arms that are switched on at first.
        load: loads the model; called once, with the first question or by `prepare`.
        samples: images to choose from.
    """

    def __init__(
        self, experiment: Experiment, load: Callable[[], LoadedModel], samples: Sequence[Sample]
    ) -> None:
        self.model, self.seed = experiment.model, experiment.seed
        self.samples = list(samples)
        self._load, self._questioner = load, None
        self._lock = threading.Lock()
        self._uploads: OrderedDict[int, Image.Image] = OrderedDict()
        self._number = len(self.samples)
        self._last: tuple[object, Looked] | None = None
        self._offered = offered(experiment.arms)
        self._named = len({(arm.selector, str(arm.options)) for arm in experiment.arms})
        self.chosen = list(self._offered)[: self._named]

    def selectors(self) -> list[dict[str, str]]:
        """Name and description of every selector that may be chosen."""
        known = {info.name: info.summary for info in selectors.describe()}
        return [
            {"name": name, "summary": known.get(config.selector, "")}
            for name, config in self._offered.items()
        ]

    def prepare(self) -> None:
        """Load the model, so that the first question need not wait for it."""
        with self._lock:
            self._ready()

    def add(self, data: bytes) -> int:
        """Take an uploaded image; its number.

        Raises:
            ZooExpError: no image, or one with too many pixels.
        """
        image = decode_image(data, "the uploaded file")
        with self._lock:
            self._uploads[self._number] = image
            self._number += 1
            while (
                len(self._uploads) > 1
                and sum(i.width * i.height for i in self._uploads.values()) > MOST_PIXELS
            ):
                self._uploads.popitem(last=False)
            return self._number - 1

    def image(self, number: int) -> Image.Image:
        """An image by its number.

        Raises:
            UnknownNameError: no such image, or one that was dropped to make room.
        """
        if 0 <= number < len(self.samples):
            return self.samples[number].image
        if number in self._uploads:
            return self._uploads[number]
        raise UnknownNameError("image", str(number), (), "Upload it again, or choose another.")

    def ask(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request of the page.

        Args:
            given: `image` (number), `question`, `selectors` (names), `budget` (text), `new_tokens`, and `respond`:
                false while the budget is being moved; tokens are then selected, but no response is generated.

        Raises:
            ZooExpError: something in it is not allowed.
        """
        question, respond = (
            str(given.get("question", ""))[:MOST_QUESTION],
            given.get("respond", True) is not False,
        )
        number, new_tokens = given.get("image"), given.get("new_tokens", 32)
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidValueError("choose an image, or upload one")
        if not isinstance(new_tokens, int) or not 1 <= new_tokens <= MOST_TOKENS:
            raise InvalidValueError(f"new_tokens={new_tokens}: give a whole number from 1 to {MOST_TOKENS}")
        arms = self._arms(given.get("selectors"), str(given.get("budget", "")))
        image = self.image(number)
        with self._lock:
            questioner = self._ready()
            looked = self._looked(questioner, (number, question), image, question, arms)
            panels = questioner.ask(looked, arms, seed=self.seed, new_tokens=new_tokens, respond=respond)
        return {
            "n_visual": looked.n_visual,
            "vision_ms": round(looked.vision_ms, 2),
            "unknown": list(looked.unknown),
            "note": NO_GRID if looked.view is None else "",
            "panels": [_panel(looked, panel) for panel in panels],
        }

    def _arms(self, names: Any, budget: str) -> tuple[Arm, ...]:
        """The arms of a request: only selectors that were offered, never a file or a class that the page names."""
        if not isinstance(names, list) or not names:
            raise InvalidValueError("choose at least one selector")
        if len(names) > MOST_ARMS:
            raise InvalidValueError(f"{len(names)} selectors: choose at most {MOST_ARMS}")
        for name in names:
            if not isinstance(name, str) or name not in self._offered:
                raise UnknownNameError("selector", str(name)[:100], self._offered)
        value: Any = int(budget) if budget.isdecimal() else budget
        chosen = [self._offered[name] for name in dict.fromkeys(names)]
        return expand(chosen, [value], self.model.n_visual, self.model.zoo)

    def _ready(self) -> Questioner:
        if self._questioner is None:
            self._questioner = Questioner(self._load())
        return self._questioner

    def _looked(
        self, questioner: Questioner, key: object, image: Image.Image, question: str, arms: Sequence[Arm]
    ) -> Looked:
        """The vision pass of an image and a question; kept for the next request, which often moves the budget only."""
        needs = frozenset().union(*(arm.build().needs for arm in arms))
        place = (key, needs)
        if self._last is None or self._last[0] != place:
            if self._last is None:
                questioner.warm_up(questioner.look(image, question, arms), arms[0])
            self._last = (place, questioner.look(image, question, arms))
        return self._last[1]


def _panel(looked: Looked, panel: Panel) -> dict[str, Any]:
    figure = None
    if looked.view is not None and panel.cells is not None:
        figure = data_url(overlaid(looked.view.image, panel.cells, looked.view.grid, SHOWN))
    return {
        "arm": panel.arm,
        "response": panel.response,
        "kept": panel.kept,
        "layers": None if panel.layer_tokens is None else round(panel.layer_tokens, 1),
        "select_ms": None if panel.select_ms is None else round(panel.select_ms, 2),
        "generate_ms": None if panel.generate_ms is None else round(panel.generate_ms, 1),
        "problem": panel.problem,
        "figure": figure,
    }


def budgets_of(n_visual: int | None) -> dict[str, Any]:
    """Range of the budget slider: counts where the model has a fixed number of visual tokens, otherwise percent."""
    if n_visual is None:
        return {"low": 1, "high": 100, "start": 22, "unit": "%"}
    return {"low": 1, "high": n_visual, "start": max(1, round(n_visual / 9)), "unit": ""}
