"""Budgets: how many visual tokens an image or a video keeps, as a count or a keep ratio with a rounding mode."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from zoo_exp.errors import InvalidValueError

ROUNDINGS: dict[str, Callable[[float], int]] = {
    "nearest": lambda x: math.floor(x + 0.5),
    "down": lambda x: math.floor(x + 1e-9),
    "bankers": lambda x: round(x),
}
SCOPES = ("image", "tile", "frame", "mean")
WITHOUT_BUDGET = ("full", "blind")
"""Selectors without a budget: they keep all visual tokens or none."""
_HINT = "a budget is a whole number of tokens above 0 (64) or a keep ratio (0.111 or 11.1%)"
_SUFFIXES = (
    "optional suffixes: /tile (for every tile), /frame (for every frame of a video), :down or :bankers (rounding of a "
    "ratio), and mean (over the layers of the language model)"
)
_TEXT = re.compile(r"(?P<value>[^/:]*)(/(?P<per>[^/:]*))?(:(?P<rounding>[^/:]*))?")


BudgetLike: TypeAlias = "Budget | int | float | str | None"
"""Accepted types of a budget argument."""


@dataclass(frozen=True)
class Budget:
    """Number of visual tokens to keep.

    Exactly one of `count` and `keep_ratio` is set.

    Attributes:
        count: tokens to keep.
        keep_ratio: share of the tokens to keep, above 0, at most 1.
        per: `image` (also for a whole video), `tile` (the budget applies to every tile), `frame` (to every frame of a
            video; images are refused) or `mean`: the mean over the layers of the language model of the token count at
            each layer's input. A layer selector, whose first layers see every token, computes the number of tokens to
            keep after them; for input selectors, `mean` equals `image`.
        rounding: of a ratio of N tokens: `nearest` (halves up), `down` (`int()` in ZOO-Prune's release) or `bankers`
            (`int(round())` in DivPrune's).
        at_most: whether a count keeps all tokens of an image that has fewer, for data with images of different sizes;
            otherwise such an image is an error.
    """

    count: int | None = None
    keep_ratio: float | None = None
    per: str = "image"
    rounding: str = "nearest"
    at_most: bool = False

    def __post_init__(self) -> None:
        """Check the fields; conditions that depend on N are checked by `resolve`."""
        if (self.count is None) == (self.keep_ratio is None):
            raise InvalidValueError("a budget is either a count or a keep ratio: give exactly one of them")
        if self.count is not None and self.count < 0:
            raise InvalidValueError(f"budget {self.count}: a count of visual tokens cannot be negative")
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise InvalidValueError(f"budget {self.keep_ratio}: a keep ratio must be above 0 and at most 1")
        if self.per not in SCOPES:
            raise InvalidValueError(f"budget per '{self.per}': allowed are {', '.join(SCOPES)}")
        if self.at_most and self.count is None:
            raise InvalidValueError(
                "at_most requires a count: a keep ratio never exceeds the number of tokens"
            )
        if self.rounding not in ROUNDINGS:
            raise InvalidValueError(f"rounding '{self.rounding}': allowed are {', '.join(ROUNDINGS)}")

    @classmethod
    def parse(cls, value: "Budget | int | float | str") -> "Budget":
        """Parse a budget: 64, 0.111 or "11.1%" (1 means one token, 1.0 means every token).

        Strings may have the suffixes "/tile" (for every tile instead of the image), "/frame" (for every frame of a
        video), ":down" or ":bankers" (rounding), and " mean" (over the layers of the language model); a count may have
        the prefix "<=" (an image with fewer tokens keeps all).

        >>> Budget.parse(64), Budget.parse("11.1%/tile:down")
        (Budget(count=64, keep_ratio=None, per='image', rounding='nearest', at_most=False), \
Budget(count=None, keep_ratio=0.111, per='tile', rounding='down', at_most=False))

        Raises:
            InvalidValueError: not a budget; the message describes valid ones.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, str):
            return cls._parse_text(value.strip())
        return cls._parse_number(value, "image", "nearest")

    @classmethod
    def _parse_text(cls, text: str) -> "Budget":
        whole, mean = text, text.endswith(" mean")
        text = text.removesuffix(" mean").rstrip()
        parts = _TEXT.fullmatch(text)
        if parts is None:
            raise InvalidValueError(f"budget '{text}' is not a budget: {_HINT}; {_SUFFIXES}")
        number, per, rounding = parts["value"].strip(), parts["per"], parts["rounding"]
        if mean and per is not None:
            raise InvalidValueError(
                f"budget '{whole}': a mean over layers refers to the whole image, remove '/{per}'"
            )
        at_most = number.startswith("<=")
        number = number.removeprefix("<=").strip()
        value: int | float
        try:
            if number.endswith("%"):
                value = round(float(number[:-1]) / 100, 12)
            else:
                value = int(number) if number.lstrip("+-").isdigit() else float(number)
        except ValueError:
            raise InvalidValueError(f"budget '{text}' is not a number: {_HINT}") from None
        if rounding is not None and isinstance(value, int):
            raise InvalidValueError(f"budget '{text}': a count is not rounded, remove ':{rounding}'")
        budget = cls._parse_number(
            value,
            "mean" if mean else "image" if per is None else per.strip(),
            "nearest" if rounding is None else rounding.strip(),
        )
        return replace(budget, at_most=True) if at_most else budget

    @classmethod
    def _parse_number(cls, value: object, per: str, rounding: str) -> "Budget":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InvalidValueError(f"budget {value!r} is not a number: {_HINT}")
        if isinstance(value, int):
            if value <= 0:
                raise InvalidValueError(
                    f"budget {value}: {_HINT}; for zero visual tokens use the selector 'blind'"
                )
            return cls(count=value, per=per)
        if not 0 < value <= 1:
            raise InvalidValueError(f"budget {value}: {_HINT}")
        return cls(keep_ratio=value, per=per, rounding=rounding)

    def resolve(self, n_visual: int) -> int:
        """K for an image (or a tile) of `n_visual` tokens.

        Raises:
            InvalidValueError: a count above `n_visual`, without `at_most`; a budget per frame, which an image lacks.
        """
        self.refuse_frames()
        if self.count is not None:
            if self.count > n_visual and self.at_most:
                return n_visual
            if self.count > n_visual:
                fewer = replace(self, at_most=True)
                raise InvalidValueError(
                    f"budget {self.count} is above the {n_visual} visual tokens of the image: "
                    f"give 1 to {n_visual}, budget='{fewer}' (an image that has fewer keeps all), or a keep ratio"
                )
            return self.count
        assert self.keep_ratio is not None  # checked by __post_init__
        kept = ROUNDINGS[self.rounding](self.keep_ratio * n_visual)
        return min(n_visual, max(1 if n_visual else 0, kept))

    def refuse_frames(self) -> None:
        """Refuse a budget per frame, where the tokens are those of an image.

        Raises:
            InvalidValueError: a budget per frame.
        """
        if self.per == "frame":
            whole = replace(self, per="image")
            raise InvalidValueError(
                f"budget {self}: an image has no frames: give {whole} (for every image) or {replace(self, per='tile')} "
                "(for every tile); a budget per frame is for videos in zoo_exp.pruned"
            )

    def of_frame(self, n_visual: int) -> "Budget":
        """The budget of one frame with `n_visual` visual tokens.

        Raises:
            InvalidValueError: not a budget per frame, or a count above `n_visual`, without `at_most`.
        """
        if self.per != "frame":
            raise InvalidValueError(f"budget {self} is not for every frame")
        if self.count is not None and self.count > n_visual and not self.at_most:
            raise InvalidValueError(
                f"budget {self} is above the {n_visual} visual tokens of a frame: give 1/frame to {n_visual}/frame, "
                f"'{replace(self, at_most=True)}' (a frame that has fewer keeps all), or a keep ratio (0.25/frame)"
            )
        return replace(self, per="image")

    def meaning(self) -> str:
        """Description of the budget for users.

        >>> Budget.parse("32/tile").meaning()
        '32 visual tokens of every tile (all of a tile that has fewer): 160 of five tiles, 128 of four, 96 of three'
        """
        if self.count is not None:
            amount = f"{self.count} visual token{'s' if self.count != 1 else ''}"
        else:
            rounded = {"nearest": "", "down": ", rounded down", "bankers": ", rounded half to even"}
            amount = f"{100 * (self.keep_ratio or 0):.4g} % of the visual tokens{rounded[self.rounding]}"
        if self.per == "tile":
            totals = ""
            if self.count is not None:
                five, four, three = (number * self.count for number in (5, 4, 3))
                totals = (
                    f" (all of a tile that has fewer): {five} of five tiles, {four} of four, {three} of three"
                )
            return f"{amount} of every tile{totals}"
        if self.per == "frame":
            fewer = " (all of a frame that has fewer)" if self.at_most else ""
            return f"{amount} of every frame of a video{fewer}"
        fewer = " (all of an image that has fewer)" if self.at_most else ""
        if self.per == "mean":
            return f"{amount} of every image{fewer} in the mean over the language model's layers"
        return f"{amount} of every image{fewer}, shared by its tiles where it has several"

    def __str__(self) -> str:
        """The budget in the syntax of `parse`."""
        if self.count is not None:
            text = f"{'<=' if self.at_most else ''}{self.count}"
        else:
            text = "1.0" if self.keep_ratio == 1 else f"{self.keep_ratio:.12g}"  # a bare 1 would be one token
        if self.per in ("tile", "frame"):
            text += f"/{self.per}"
        if self.keep_ratio is not None and self.rounding != "nearest":
            text += f":{self.rounding}"
        return f"{text} mean" if self.per == "mean" else text
