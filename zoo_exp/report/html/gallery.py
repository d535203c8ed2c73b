"""Galleries of kept tokens with a slider over budgets: pictures once, masks as indices that the page draws."""

import base64
import json
from collections.abc import Sequence
from statistics import mode
from typing import Any

import numpy as np

from zoo_exp.report.html.pictures import Pictures
from zoo_exp.report.masks import MaskItem
from zoo_exp.statistics.rows import ArmRow

TEXT = 400  # characters of a question or an answer


def render(items: Sequence[MaskItem], rows: Sequence[ArmRow], pictures: Pictures) -> str:
    """The gallery's HTML; its data is JSON in which no text can end the script element.

    Args:
        items: questions with masks.
        rows: the table's rows, which say what budget an arm has.
        pictures: where the page keeps its pictures.
    """
    if not items:
        return ""
    document = {"items": [_item(item, pictures) for item in items], "budgets": budgets(items, rows)}
    return f'<div class="gallery"><script type="application/json">{script_json(document)}</script></div>'


def budgets(items: Sequence[MaskItem], rows: Sequence[ArmRow]) -> list[dict[str, Any]]:
    """Stops of the slider, most tokens first: a label and the arms, those without a budget at each stop."""
    present = list(dict.fromkeys(arm.arm for item in items for arm in item.arms))
    kept = {arm.arm: len(arm.indices) for item in items for arm in item.arms}
    always = [r.names[0] for r in rows if r.budget is None and r.selector == "full" and r.names[0] in present]
    names = list(dict.fromkeys(row.budget for row in rows if row.budget is not None))
    stops = []
    for budget in names:
        # Of a random selector the first seed.
        mine = [row.names[0] for row in rows if row.budget == budget and row.names[0] in present]
        if mine:
            # What most arms keep: rules inside the language model keep more on the way, or less at its end.
            usual = mode(kept[name] for name in mine)
            label = f"{usual} visual tokens" + ("" if budget == str(usual) else f" (budget {budget})")
            stops.append((usual, label, [*always, *mine]))
    if not stops:
        stops = [(0, "all arms", present)]
    stops.sort(key=lambda stop: -stop[0])
    return [{"label": label, "arms": arms} for _, label, arms in stops]


def script_json(document: object) -> str:
    r"""JSON that may stand inside a script element.

    >>> script_json("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _item(item: MaskItem, pictures: Pictures) -> dict[str, Any]:
    return {
        "task": item.task,
        "question": _short(item.question),
        "reference": _short(item.reference),
        "grid": list(item.grid),
        "image": pictures.add(item.image),
        "arms": [
            {
                "arm": a.arm,
                "n": len(a.indices),
                "kept": bits(a.indices),
                "response": _short(a.response),
                "right": a.score >= 0.5,
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
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= TEXT else plain[: TEXT - 1] + "…"
