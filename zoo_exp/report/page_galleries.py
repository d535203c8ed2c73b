"""Galleries of the page: images once, kept tokens as bits that the page's script draws over them."""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from statistics import mode
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from zoo_exp.report.gallery import plain
from zoo_exp.report.mask_items import MaskItem
from zoo_exp.statistics.arm_rows import ArmRow

TEXT = 400
"""Characters of a question or a response."""


class PageImages:
    """Every image of the page once, however many galleries show it.

    Args:
        pixels: longest side; larger images are reduced.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._number: dict[str, int] = {}
        self.urls: list[str] = []

    def add(self, image: Image.Image) -> int:
        """The number of an image; the same pixels have the same number."""
        small = image.convert("RGB")
        if max(small.size) > self._pixels:
            small = small.copy()
            small.thumbnail((self._pixels, self._pixels))
        digest = hashlib.sha256(repr(small.size).encode() + small.tobytes()).hexdigest()
        if digest not in self._number:
            self._number[digest] = len(self.urls)
            self.urls.append(data_url(small))
        return self._number[digest]


def data_url(image: Image.Image) -> str:
    """The image as the shorter one of a lossless and a lossy file: drawings are PNG, photographs JPEG."""
    files = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80, "optimize": True})):
        buffer = io.BytesIO()
        image.save(buffer, format=kind.upper(), **options)
        files.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    png, jpeg = files
    # Sharp edges matter more than bytes where images are small.
    _, kind, data = png if max(image.size) <= 128 and png[0] < 40_000 else min(png, jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def gallery_data(items: Sequence[MaskItem], rows: Sequence[ArmRow], images: PageImages) -> dict[str, Any]:
    """What the page's script draws: questions with their arms, and the stops of the budget slider.

    Args:
        items: questions with masks.
        rows: the arms, which say what budget each has.
        images: the images of the page.
    """
    return {"items": [_item(item, images) for item in items], "budgets": budgets(items, rows)}


def budgets(items: Sequence[MaskItem], rows: Sequence[ArmRow]) -> list[dict[str, Any]]:
    """Stops of the slider, most tokens first: a label and the arms; `full` is at every stop."""
    present = list(dict.fromkeys(arm.arm for item in items for arm in item.arms))
    kept = {arm.arm: len(arm.indices) for item in items for arm in item.arms}
    always = [r.names[0] for r in rows if r.budget is None and r.selector == "full" and r.names[0] in present]
    names = list(dict.fromkeys(row.budget for row in rows if row.budget is not None))
    stops = []
    for budget in names:
        # Of an arm with several seeds, the first.
        mine = [row.names[0] for row in rows if row.budget == budget and row.names[0] in present]
        if mine:
            # The count of most arms: layer selectors keep more in early layers, or fewer in the last one.
            usual = mode(kept[name] for name in mine)
            label = f"{usual} visual tokens" + ("" if budget == str(usual) else f" (budget {budget})")
            stops.append((usual, label, [*always, *mine]))
    if not stops:
        stops = [(0, "all arms", present)]
    stops.sort(key=lambda stop: -stop[0])
    return [{"label": label, "arms": arms} for _, label, arms in stops]


def script_json(document: object) -> Markup:
    r"""JSON that may stand inside a script element: no text in it can end the element.

    >>> print(script_json("</script><!--"))
    "\u003c/script\u003e\u003c!--"
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _item(item: MaskItem, images: PageImages) -> dict[str, Any]:
    return {
        "task": item.task,
        "question": _short(item.question),
        "reference": _short(item.reference),
        "grid": list(item.grid),
        "image": images.add(item.image),
        "arms": [
            {
                "arm": a.arm,
                "n": len(a.indices),
                "kept": bits(a.indices),
                "response": _short(a.response),
                "right": bool(a.correct),
            }
            for a in item.arms
        ],
    }


def bits(indices: Sequence[int]) -> str:
    """Kept tokens as one bit each, lowest first, in base64: a tenth of the digits.

    >>> bits([0, 9]), bits([])
    ('AQI=', '')
    """
    flags = np.zeros(max(indices, default=-1) + 1, np.uint8)
    flags[list(indices)] = 1
    return base64.b64encode(np.packbits(flags, bitorder="little").tobytes()).decode("ascii")


def _short(text: str) -> str:
    shown = plain(text)
    return shown if len(shown) <= TEXT else shown[: TEXT - 1] + "…"
