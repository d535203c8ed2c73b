"""What W&B shows of results: scalars, the table, mask images. The same for one cell and for a whole experiment."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from zoo_exp.overlays import kept_mask
from zoo_exp.report.mask_items import MaskItem
from zoo_exp.statistics.frame import AVERAGE

SANITY = ("full", "blind", "random", "uniform_grid", "feature_norm", "resize")
QUANTITIES = {
    "retained": "retained",
    "value": "mean_score",
    "kept_tokens": "kept_tokens",
    "layer_tokens": "layer_tokens",
    "flops_tflop": "flops_tflop",
    "select_ms": "select_ms",
    "prefill_decode_ms": "prefill_decode_ms",
    "vision_ms": "vision_ms",
}
"""Column of the average rows -> section in W&B."""
Row = Mapping[str, Any]
"""A row of `Results.frame` as plain values (`run_document.plain_rows`)."""


def plain_key(label: str) -> str:
    """A label as part of a W&B key: keys become file names, and a slash starts a section or a folder.

    >>> plain_key("zoo m=64/h=0.01")
    'zoo m=64_h=0.01'
    """
    return re.sub(r"[^\w .,@%=()+-]", "_", label)


def key(section: str, arm: str) -> str:
    """The W&B key of a value of an arm."""
    return f"{plain_key(section)}/{plain_key(arm)}"


def scalars(rows: Sequence[Row]) -> dict[str, float]:
    """`<task>/<arm>` for metrics and `<quantity>/<arm>` for averages over tasks; missing values are left out."""
    found: dict[str, float | None] = {}
    for row in rows:
        if row["task"] == AVERAGE:
            found |= {key(section, row["arm"]): row.get(column) for column, section in QUANTITIES.items()}
        else:
            found[key(row["task"], row["arm"])] = row["value"]
    return {name: value for name, value in found.items() if value is not None}


def table(rows: Sequence[Row], make: Callable[..., Any]) -> Any:
    """All rows and columns.

    Args:
        rows: the rows, all with the same columns.
        make: `wandb.Table`.
    """
    columns = list(rows[0])
    data = [
        [json.dumps(row[c], sort_keys=True) if isinstance(row[c], dict) else row[c] for c in columns]
        for row in rows
    ]
    return make(columns=columns, data=data, allow_mixed_types=True)


def mask_images(items: Sequence[MaskItem], make: Callable[..., Any]) -> dict[str, list[Any]]:
    """Per arm, images with the kept tokens as a mask that W&B can switch on and off.

    Args:
        items: questions with masks.
        make: `wandb.Image`.
    """
    found: dict[str, list[Any]] = {}
    for item in items:
        for arm in item.arms:
            mask = Image.fromarray(kept_mask(arm.indices, item.grid).astype(np.uint8))
            pixels = np.asarray(mask.resize(item.image.size, Image.Resampling.NEAREST))
            masks = {"tokens": {"mask_data": pixels, "class_labels": {0: "dropped", 1: "kept"}}}
            caption = f"{item.question} | reference: {item.reference} | response: {arm.response}"
            found.setdefault(key("masks", arm.arm), []).append(make(item.image, caption=caption, masks=masks))
    return found


def studied(selectors: Sequence[str]) -> str:
    """The selector under study, or `comparison` if there are several; sanity arms do not count.

    >>> studied(["full", "zoo", "zoo", "random", "blind"]), studied(["full", "zoo", "divprune"])
    ('zoo', 'comparison')
    """
    names = dict.fromkeys(name for name in selectors if name not in SANITY)
    return next(iter(names)) if len(names) == 1 else "comparison" if names else "sanity"
