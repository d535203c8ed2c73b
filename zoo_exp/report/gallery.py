"""The figure of kept visual tokens: one row per question, one column per arm, drawn with Pillow."""

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from zoo_exp.errors import InvalidValueError
from zoo_exp.files import replaced
from zoo_exp.overlays import Pixels, darkened, kept_mask, overlay, resized
from zoo_exp.report.mask_items import MaskArm, MaskItem

# Okabe and Ito's palette: distinguishable with any colour vision; the mark says the same without colour.
RIGHT, WRONG = "#00795a", "#c8480a"
INK, SOFT, PAPER = "#111111", "#555555", "#ffffff"
TILE = 240
"""Width of an image in pixels: a multiple of the usual token grids (12, 24)."""
GAP, MARGIN = 16, 26
HEADER, QUESTION, RESPONSE = 62, 60, 44
"""Heights in pixels of the arm labels, of the text above a row of images, and of the response below."""
RESPONSE_LINE = 21
"""Height in pixels of a further line of a response."""


def draw_gallery(items: Sequence[MaskItem], path: Path, caption: str = "", lines: int = 1) -> None:
    """Draw the figure as a PNG.

    Args:
        items: rows from top to bottom; the arms of the first one are the columns, other rows may lack some.
        path: the file, replaced as a whole.
        caption: text below the rows.
        lines: most lines of a response; a longer one is cut.

    Raises:
        InvalidValueError: no question, or a first question without arms.
    """
    if not items or not items[0].arms:
        raise InvalidValueError("a mask gallery needs at least one question with one arm")
    columns = [arm.arm for arm in items[0].arms]
    width = 2 * MARGIN + len(columns) * (TILE + GAP) - GAP
    width = max(width, 2 * MARGIN + 2 * TILE)  # room for a question above a single column
    heights = [round(TILE * min(1.6, max(0.4, item.image.height / item.image.width))) for item in items]
    small = font(14)
    below = wrap(caption, small, width - 2 * MARGIN) if caption else []
    response = RESPONSE + RESPONSE_LINE * (lines - 1)
    height = HEADER + sum(QUESTION + tile + response for tile in heights) + 20 * len(below) + MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, arm in enumerate(columns):
        label = "\n".join(wrap(arm, font(17, bold=True), TILE, most=2))
        place = (MARGIN + number * (TILE + GAP) + TILE // 2, HEADER - 8)
        pen.multiline_text(place, label, INK, font(17, bold=True), anchor="md", align="center", spacing=2)
    top = HEADER
    for item, tile in zip(items, heights, strict=True):
        answer = f"  →  {plain(item.reference)}" if item.reference else ""
        line = f"{plain(item.question)}{answer}"
        pen.text((MARGIN, top + 12), shorten(plain(item.task), small, width - 2 * MARGIN), SOFT, small)
        pen.text((MARGIN, top + 31), shorten(line, font(18), width - 2 * MARGIN), INK, font(18))
        by_arm = {arm.arm: arm for arm in item.arms}
        pixels = resized(item.image, (TILE, tile))
        dark = darkened(pixels)
        for number, name in enumerate(columns):
            if name in by_arm:
                corner = MARGIN + number * (TILE + GAP), top + QUESTION
                mask = kept_mask(by_arm[name].indices, item.grid)
                _draw_tile(canvas, pen, corner, overlay(pixels, dark, mask), by_arm[name], lines)
        top += QUESTION + tile + response
    for number, text in enumerate(below):
        pen.text((MARGIN, top + 6 + 20 * number), text, SOFT, small)
    with replaced(path, sync=False) as file:
        # Level 4: as small as the default 6 within a few percent, in half of the time.
        canvas.save(file, format="PNG", compress_level=4)


def _draw_tile(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    shown: Pixels,
    arm: MaskArm,
    lines: int,
) -> None:
    left, top = corner
    height = shown.shape[0]
    canvas.paste(Image.fromarray(shown), corner)
    count, small = str(len(arm.indices)), font(14, bold=True)
    box = round(small.getlength(count)) + 10
    badge = (left + TILE - box, top + height - 21, left + TILE - 1, top + height - 1)
    pen.rectangle(badge, fill="#000000")
    pen.text((left + TILE - box // 2, top + height - 11), count, "#ffffff", small, anchor="mm")
    mark = {True: "✓ ", False: "✗ ", None: ""}[arm.correct]
    colour = {True: RIGHT, False: WRONG, None: INK}[arm.correct]
    face = font(16, bold=True)
    response = f"{mark}{plain(arm.response) or '(empty)'}"
    for number, line in enumerate(wrap(response, face, TILE, most=lines)):
        place = (left + TILE // 2, top + height + 8 + RESPONSE_LINE * number)
        pen.text(place, line, colour, face, anchor="ma")


@functools.lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it, so that a gallery looks the same on every machine.

    Args:
        size: pixels.
        bold: the bold face.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def plain(text: str) -> str:
    r"""One line without control characters.

    >>> plain("a\nb\x1b[31m")
    'a b [31m'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shorten(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    text = text[:600]  # measuring a whole document would take seconds
    if face.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest prefix that fits together with the ellipsis
        middle = (low + high + 1) // 2
        low, high = (middle, high) if face.getlength(text[:middle] + "…") <= width else (low, middle - 1)
    return text[:low].rstrip() + "…"


def wrap(text: str, face: ImageFont.FreeTypeFont, width: int, most: int = 4) -> list[str]:
    """Break a text into at most `most` lines of `width` pixels; the last one is cut where more would follow."""
    lines: list[str] = []
    for word in plain(text).split():
        if lines and face.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return [shorten(line, face, width) for line in lines]
