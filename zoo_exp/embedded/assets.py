"""What scenes are made of: shape masks, handwritten digits, rendered words, backgrounds.

Digits are scikit-learn's 1,797 scans and photographs its two sample images; both are split so that
no digit and no part of a photograph is seen in two splits.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoo_exp.embedded.sklearn_data import load_photographs, load_scans
from zoo_exp.embedded.vocabulary import SHAPES, WORDS

Picture = NDArray[np.float32]

SPLITS = ("train", "validation", "test")
SHAPE_SIZES = (10, 13, 17, 23)
DIGIT_SIZES = (12, 16)
FONT_SIZES = (11, 13)
TILTS = (-9, 0, 9)
BACKGROUND_SIZE = 224
BACKGROUNDS_PER_SPLIT = 96
_DIGIT_CUTS = {"train": (0.0, 0.78), "validation": (0.78, 0.84), "test": (0.84, 1.0)}
_PHOTO_CUTS = {"train": (0.0, 0.66), "validation": (0.66, 0.78), "test": (0.78, 1.0)}


@dataclass(frozen=True)
class Assets:
    """All material of one split; masks are in [0, 1]."""

    shapes: dict[tuple[str, int], list[Picture]]
    digits: list[list[Picture]]
    words: dict[tuple[str, int], Picture]
    backgrounds: list[NDArray[np.uint8]]


@lru_cache(maxsize=len(SPLITS))
def load_assets(split: str) -> Assets:
    """Make the material of a split (about a second, once per process)."""
    return Assets(
        shapes={(s, n): [shape_mask(s, n, t) for t in TILTS] for s in SHAPES for n in SHAPE_SIZES},
        digits=_digits(split),
        words={(w, n): _word_mask(w, n) for w in WORDS for n in FONT_SIZES},
        backgrounds=_backgrounds(split),
    )


def resize(picture: Picture, width: int, height: int) -> Picture:
    """Bicubic resize of a single-channel picture in [0, 1]."""
    image = Image.fromarray((picture * 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255


def _regular(
    points: int, centre: float, radius: float, turn: float, inner: float = 1.0
) -> list[tuple[float, float]]:
    """Corners of a regular polygon; `inner` < 1 pulls every other corner in (a star)."""
    corners = []
    for i in range(points):
        r = radius * (inner if i % 2 else 1.0)
        angle = math.radians(turn - 90 + 360 * i / points)
        corners.append((centre + r * math.cos(angle), centre + r * math.sin(angle)))
    return corners


def shape_mask(shape: str, size: int, tilt: float) -> Picture:
    """Anti-aliased mask of a shape in a box of `size` pixels, turned by `tilt` degrees."""
    scale = 6
    side = size * scale
    centre, radius = side / 2, side / 2 - 1
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)

    def disc(cx: float, cy: float, r: float, fill: int = 255) -> None:
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=fill)

    if shape == "square":
        draw.polygon(_regular(4, centre, radius, tilt + 45), fill=255)
    elif shape == "triangle":
        draw.polygon(_regular(3, centre, radius, tilt), fill=255)
    elif shape == "star":
        draw.polygon(_regular(10, centre, radius, tilt, inner=0.42), fill=255)
    elif shape == "diamond":
        slim = [(centre, centre - radius), (centre + 0.62 * radius, centre), (centre, centre + radius)]
        draw.polygon([*slim, (centre - 0.62 * radius, centre)], fill=255)
        image = image.rotate(tilt, resample=Image.Resampling.BICUBIC)
    elif shape == "circle":
        disc(centre, centre, radius * 0.92)
    elif shape == "ring":
        disc(centre, centre, radius * 0.95)
        disc(centre, centre, radius * 0.5, fill=0)
    elif shape == "cross":
        arm = radius * 0.36
        draw.rectangle([centre - arm, centre - radius, centre + arm, centre + radius], fill=255)
        draw.rectangle([centre - radius, centre - arm, centre + radius, centre + arm], fill=255)
        image = image.rotate(tilt, resample=Image.Resampling.BICUBIC)
    elif shape == "heart":
        lobe = radius * 0.55
        disc(centre - radius + lobe, centre - radius * 0.9 + lobe, lobe)
        disc(centre + radius - lobe, centre - radius * 0.9 + lobe, lobe)
        sides = [
            (centre - radius * 0.93, centre - radius * 0.05),
            (centre + radius * 0.93, centre - radius * 0.05),
        ]
        draw.polygon([*sides, (centre, centre + radius)], fill=255)
        image = image.rotate(tilt, resample=Image.Resampling.BICUBIC)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), np.float32) / 255


def _word_mask(word: str, font_size: int) -> Picture:
    font = ImageFont.load_default(size=font_size)
    left, top, right, bottom = (int(v) for v in font.getbbox(word))
    image = Image.new("L", (right - left + 2, bottom - top + 2), 0)
    ImageDraw.Draw(image).text((1 - left, 1 - top), word, font=font, fill=255)
    return np.asarray(image, np.float32) / 255


def _digits(split: str) -> list[list[Picture]]:
    """The split's scans, by digit."""
    scans, digits = load_scans()
    order = np.random.default_rng(20).permutation(len(scans))
    first, last = (int(cut * len(order)) for cut in _DIGIT_CUTS[split])
    by_digit: list[list[Picture]] = [[] for _ in range(10)]
    for i in order[first:last]:
        by_digit[int(digits[i])].append((scans[i] / 16).astype(np.float32))
    return by_digit


def _photographs(split: str) -> list[NDArray[np.uint8]]:
    """The split's vertical strip of each photograph."""
    strips = []
    for photo in load_photographs():
        first, last = (int(cut * photo.shape[1]) for cut in _PHOTO_CUTS[split])
        strips.append(photo[:, first:last])
    return strips


def _backgrounds(split: str) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng([31, SPLITS.index(split)])
    photographs = _photographs(split)
    return [_background(rng, photographs) for _ in range(BACKGROUNDS_PER_SPLIT)]


def _background(rng: np.random.Generator, photographs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One of photograph, fractal noise, stripes, gradient; then flattened in contrast; then perhaps clutter."""
    n = BACKGROUND_SIZE
    draw = rng.random()
    if draw < 0.45:
        picture, contrast = _photo_crop(rng, photographs), rng.uniform(0.35, 0.8)
    elif draw < 0.75:
        picture, contrast = _fractal(rng), rng.uniform(0.3, 0.8)
    elif draw < 0.88:
        picture, contrast = _stripes(rng), rng.uniform(0.25, 0.6)
    else:
        ramp = np.linspace(0, 1, n)[:, None, None]
        ramp = ramp if rng.random() < 0.5 else ramp.transpose(1, 0, 2)
        picture = ramp * rng.random(3) + (1 - ramp) * rng.random(3) + np.zeros((n, n, 3))
        contrast = rng.uniform(0.3, 0.7)
    tone = rng.uniform(0.2, 0.75, 3) * 0.5 + rng.uniform(0.2, 0.75) * 0.5
    picture = (picture - picture.mean((0, 1))) * contrast + tone
    image = (picture.clip(0, 1) * 255).astype(np.uint8)
    return _clutter(rng, image) if rng.random() < 0.6 else image


def _photo_crop(rng: np.random.Generator, photographs: list[NDArray[np.uint8]]) -> Picture:
    photo = photographs[rng.integers(len(photographs))]
    side = int(rng.integers(75, min(photo.shape[:2])))
    top, left = (int(rng.integers(0, photo.shape[axis] - side + 1)) for axis in (0, 1))
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    size = (BACKGROUND_SIZE, BACKGROUND_SIZE)
    picture = np.asarray(crop.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    if rng.random() < 0.3:
        picture = picture.mean(-1, keepdims=True).repeat(3, -1)
    return picture


def _fractal(rng: np.random.Generator) -> Picture:
    """Sum of smooth noises at a few scales (in pixels)."""
    n = BACKGROUND_SIZE
    scales = ((32, 16, 8), (64, 32), (8, 4), (16, 4, 2), (64, 8, 2))[rng.integers(5)]
    total = np.zeros((n, n, 3), np.float32)
    for scale in scales:
        coarse = rng.random((max(2, n // scale), max(2, n // scale), 3)).astype(np.float32)
        if rng.random() < 0.5:
            coarse[..., 1:] = coarse[..., :1]
        total += np.stack([resize(coarse[..., c], n, n) for c in range(3)], -1) * scale**0.5
    total -= total.min()
    return total / total.max()


def _stripes(rng: np.random.Generator) -> Picture:
    n = BACKGROUND_SIZE
    angle, frequency = rng.uniform(0, math.pi), rng.uniform(0.15, 0.9)
    y, x = np.mgrid[0:n, 0:n]
    wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * frequency)
    if rng.random() < 0.4:
        wave = wave * np.sin((y * math.cos(angle) - x * math.sin(angle)) * frequency)
    return ((wave[..., None] + 1) / 2 * rng.random(3) + (1 - wave[..., None]) / 2 * rng.random(3)).astype(
        np.float32
    )


def _clutter(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Thin lines, arcs and dots in muted colours."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(5, 45))):
        grey = rng.uniform(30, 200)
        color = tuple(int(np.clip(grey + rng.normal(0, 25), 0, 255)) for _ in range(3))
        x, y = (int(v) for v in rng.integers(0, BACKGROUND_SIZE, 2))
        kind = rng.integers(3)
        if kind == 0:
            dx, dy = (int(v) for v in rng.integers(-50, 50, 2))
            draw.line([x, y, x + dx, y + dy], fill=color, width=int(rng.integers(1, 3)))
        elif kind == 1:
            w, h = (int(v) for v in rng.integers(6, 50, 2))
            draw.arc([x, y, x + w, y + h], 0, int(rng.integers(60, 200)), fill=color)
        else:
            r = int(rng.integers(1, 3))
            draw.ellipse([x, y, x + r, y + r], fill=color)
    return np.asarray(image)
