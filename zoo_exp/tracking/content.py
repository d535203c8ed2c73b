"""What W&B shows of results: scalars, the table, mask images. The same for one cell and for a whole experiment."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo_exp.files import write_bytes
from zoo_exp.overlays import kept_mask
from zoo_exp.report.mask_items import MaskItem
from zoo_exp.statistics.frame import AVERAGE

FOLDER, STAGED = "wandb", "wandb-data"
"""Folders of W&B inside a run folder: its runs, and what it stages for them."""
MASK_ROW = 1500
"""Bytes of what W&B writes about a mask: in the history, once more in its list of masks, and in the summary."""
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


def mask_images(
    items: Sequence[MaskItem], make: Callable[..., Any], room: float, staging: Path
) -> tuple[dict[str, list[Any]], int]:
    """Per task, its questions: each image once, with the kept tokens of every arm as masks that W&B can switch on.

    The masks have no names for their values (1 is kept): W&B writes the whole configuration again for each name.

    Args:
        items: questions with masks.
        make: `wandb.Image`.
        room: bytes that images and masks may take together.
        staging: folder for the files of the masks, which W&B copies.

    Returns:
        Images by key, and the number of questions that are left out for lack of room.
    """
    found: dict[str, list[Any]] = {}
    left_out = 0
    for number, item in enumerate(items):
        files = [_encoded(_mask(arm.indices, item.grid, item.image.size), "PNG") for arm in item.arms]
        kinds = {kind: len(_encoded(item.image, kind)) for kind in ("png", "jpeg")}
        kind = min(kinds, key=kinds.__getitem__)
        size = kinds[kind] + sum(map(len, files)) + MASK_ROW * len(files)
        if size > room:
            left_out += 1
            continue
        room -= size
        masks = {}
        for place, (arm, content) in enumerate(zip(item.arms, files, strict=True)):
            path = staging / f"{number}-{place}.mask.png"
            write_bytes(path, content)
            masks[plain_key(arm.arm)] = {"path": str(path)}
        responses = "; ".join(f"{arm.arm}: {arm.response}" for arm in item.arms)
        caption = f"{item.question} | reference: {item.reference} | {responses}"
        image = make(item.image, caption=caption, masks=masks, file_type=kind.replace("jpeg", "jpg"))
        found.setdefault(key("masks", item.task), []).append(image)
    return found, left_out


def taken(run_dir: Path) -> int:
    """Bytes of the files that W&B has written for a run folder."""
    files = (path for name in (FOLDER, STAGED) for path in (run_dir / name).rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())


def _mask(indices: Sequence[int], grid: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    cells = Image.fromarray(kept_mask(indices, grid).astype(np.uint8))
    return cells.resize(size, Image.Resampling.NEAREST)


def _encoded(image: Image.Image, kind: str) -> bytes:
    """The content of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def studied(selectors: Sequence[str]) -> str:
    """The selector under study, or `comparison` if there are several; sanity arms do not count.

    >>> studied(["full", "zoo", "zoo", "random", "blind"]), studied(["full", "zoo", "divprune"])
    ('zoo', 'comparison')
    """
    names = dict.fromkeys(name for name in selectors if name not in SANITY)
    return next(iter(names)) if len(names) == 1 else "comparison" if names else "sanity"
