"""Which selector and budget a request gets: its own by name, else those of the command line."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from zoo_exp.config.arms import expand
from zoo_exp.config.experiment import Arm
from zoo_exp.config.offered import offered
from zoo_exp.config.schema import ModelConfig
from zoo_exp.core.budget import WITHOUT_BUDGET
from zoo_exp.errors import UnknownNameError, ZooExpError
from zoo_exp.serving.chat_request import ChatRequest
from zoo_exp.serving.http_errors import invalid, refused

REMEMBERED = 256
"""Pairs of selector and budget that are kept built."""


class ArmMenu:
    """Arms by selector name and budget.

    Args:
        model: its number of visual tokens and its options of ZOO.
        usual: the arm of requests that name none.
        check: refuses a selector that the engine cannot run.

    Attributes:
        names: selectors that a request may name.
    """

    def __init__(self, model: ModelConfig, usual: Arm, check: Callable[[Any, str | None], None]) -> None:
        self._model, self._usual, self._check = model, usual, check
        self._offered = offered([usual])
        self.names = list(self._offered)
        self._known: OrderedDict[tuple[str | None, str], Arm] = OrderedDict()
        self._lock = threading.Lock()
        check(usual.build(), usual.positions)

    def of(self, request: ChatRequest) -> Arm:
        """The arm of a request.

        Raises:
            ApiError: an unknown selector, or a budget that the model or the selector does not allow.
        """
        place = (request.selector, repr(request.budget))
        with self._lock:
            if place in self._known:
                self._known.move_to_end(place)
                return self._known[place]
        arm = self._build(request)
        with self._lock:
            self._known[place] = arm
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return arm

    def _build(self, request: ChatRequest) -> Arm:
        if request.selector is None and request.budget is None:
            return self._usual
        name = self.names[0] if request.selector is None else request.selector
        if name not in self._offered:
            raise refused(
                UnknownNameError("selector", name[:100], self.names), "selector", "unknown_selector"
            )
        config = self._offered[name]
        bare = config.selector in WITHOUT_BUDGET
        if bare and request.budget is not None:
            raise invalid(f"selector {name} takes no budget: leave budget out", "budget", "invalid_budget")
        budget: Any = self._usual.budget if request.budget is None else request.budget
        if budget is None and not bare:
            raise invalid(
                f"selector {name} needs a budget: send budget, such as 64", "budget", "invalid_budget"
            )
        try:
            (arm,) = expand([config], [budget], self._model.n_visual, self._model.zoo)
            self._check(arm.build(), arm.positions)
        except ZooExpError as error:
            at_fault = "selector" if request.budget is None else "budget"
            raise refused(error, at_fault, f"invalid_{at_fault}") from error
        return arm
