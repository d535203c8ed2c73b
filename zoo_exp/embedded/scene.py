"""One scene: a background with shapes, digits and words on it, and what every patch shows."""

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zoo_exp.embedded.assets import DIGIT_SIZES, FONT_SIZES, SHAPE_SIZES, SPLITS, Assets, load_assets, resize
from zoo_exp.embedded.vocabulary import COLOR_NAMES, COLORS, DIGITS, SHAPES, WORDS

IMAGE_SIZE = 96
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
SNAP = 4  # corners lie on multiples of this: the tower learns to see in a fraction of the time
MIN_OVERLAP = 12  # pixels of a thing's box in a patch before the patch counts as showing it

# What a patch can show: 0 background, then shapes, digits, words.
N_KINDS = 1 + len(SHAPES) + len(DIGITS) + len(WORDS)
N_PATCH_COLORS = 1 + len(COLOR_NAMES)
N_CONTENTS = len(SHAPES) + len(COLOR_NAMES) + len(DIGITS) + len(WORDS)


@dataclass(frozen=True)
class Thing:
    """A shape, digit or word; `box` is (top, left, bottom, right) in pixels."""

    kind: str
    name: str
    color: str | None
    box: tuple[int, int, int, int]

    @property
    def x(self) -> float:
        """Horizontal centre in pixels."""
        return (self.box[1] + self.box[3]) / 2

    @property
    def y(self) -> float:
        """Vertical centre in pixels."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def patch_kind(self) -> int:
        """The class number that a patch showing this thing has."""
        if self.kind == "shape":
            return 1 + SHAPES.index(self.name)
        if self.kind == "digit":
            return 1 + len(SHAPES) + int(self.name)
        return 1 + len(SHAPES) + len(DIGITS) + WORDS.index(self.name)


@dataclass(frozen=True)
class Scene:
    """A picture [96, 96, 3] (uint8) and the things on it."""

    pixels: NDArray[np.uint8]
    things: tuple[Thing, ...]

    @cached_property
    def shapes(self) -> list[Thing]:
        """The coloured shapes."""
        return [thing for thing in self.things if thing.kind == "shape"]

    @cached_property
    def writings(self) -> list[Thing]:
        """Digits and words."""
        return [thing for thing in self.things if thing.kind != "shape"]

    def patch_labels(self) -> NDArray[np.int64]:
        """Per patch in raster order [3, N]: kind, colour (0 none), whether a thing's centre lies in it."""
        labels = np.zeros((3, GRID, GRID), np.int64)
        largest = np.full((GRID, GRID), float(MIN_OVERLAP))
        for thing in self.things:
            top, left, bottom, right = thing.box
            color = 0 if thing.color is None else 1 + COLOR_NAMES.index(thing.color)
            for row in range(top // PATCH_SIZE, (bottom - 1) // PATCH_SIZE + 1):
                height = min(bottom, (row + 1) * PATCH_SIZE) - max(top, row * PATCH_SIZE)
                for col in range(left // PATCH_SIZE, (right - 1) // PATCH_SIZE + 1):
                    overlap = height * (min(right, (col + 1) * PATCH_SIZE) - max(left, col * PATCH_SIZE))
                    if overlap >= largest[row, col]:
                        largest[row, col] = overlap
                        labels[0, row, col], labels[1, row, col] = thing.patch_kind, color
            labels[
                2, min(GRID - 1, int(thing.y) // PATCH_SIZE), min(GRID - 1, int(thing.x) // PATCH_SIZE)
            ] = 1
        return labels.reshape(3, -1)

    def contents(self) -> NDArray[np.float32]:
        """Which shapes, colours, digits and words are there at all [N_CONTENTS]."""
        names = [*SHAPES, *COLOR_NAMES, *DIGITS, *WORDS]
        present = {thing.name for thing in self.things} | {thing.color for thing in self.things}
        return np.array([name in present for name in names], np.float32)


def make_scene(split: str, index: int, crowded: bool = False) -> Scene:
    """Scene number `index` of a split; the same numbers give the same scene, and no two splits share one.

    Args:
        split: train, validation or test.
        index: any whole number.
        crowded: many things of all kinds, for the dense first stage of training.
    """
    code = SPLITS.index(split)
    rng = random.Random(f"{split}/{index}/{crowded}")
    noise = np.random.default_rng([code, int(crowded), index])
    assets = load_assets(split)
    pixels = _place_background(rng, assets)
    things: list[Thing] = []
    for kind, name, color in _crowd(rng) if crowded else _cast(rng):
        mask, pad = _mask(rng, assets, kind, name)
        box = _free_box(rng, mask.shape[0] + 2 * pad, mask.shape[1] + 2 * pad, things)
        if box is not None:
            things.append(Thing(kind, name, color, box))
            _paint(rng, pixels, things[-1], mask, pad)
    pixels += np.float32(rng.uniform(0, 6)) * noise.standard_normal(pixels.shape).astype(np.float32)
    return Scene(pixels.clip(0, 255).astype(np.uint8), tuple(things))


def _cast(rng: random.Random) -> list[tuple[str, str, str | None]]:
    """Perhaps a word, perhaps a digit, two to six shapes from few kinds, so that counts and near misses abound."""
    cast: list[tuple[str, str, str | None]] = []
    if rng.random() < 0.75:
        cast.append(("word", rng.choice(WORDS), None))
    if rng.random() < 0.85:
        cast.append(("digit", rng.choice(DIGITS), None))
    shapes = rng.sample(SHAPES, rng.randint(2, 5))
    colors = rng.sample(COLOR_NAMES, rng.randint(2, 5))
    cast += [("shape", rng.choice(shapes), rng.choice(colors)) for _ in range(rng.randint(2, 6))]
    return cast


def _crowd(rng: random.Random) -> list[tuple[str, str, str | None]]:
    return (
        [("word", rng.choice(WORDS), None) for _ in range(2)]
        + [("digit", rng.choice(DIGITS), None) for _ in range(3)]
        + [("shape", rng.choice(SHAPES), rng.choice(COLOR_NAMES)) for _ in range(8)]
    )


def _place_background(rng: random.Random, assets: Assets) -> NDArray[np.float32]:
    background = rng.choice(assets.backgrounds)
    top, left = (rng.randint(0, side - IMAGE_SIZE) for side in background.shape[:2])
    pixels = background[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE].astype(np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels * rng.uniform(0.75, 1.15) + rng.uniform(-15, 15))


def _mask(rng: random.Random, assets: Assets, kind: str, name: str) -> tuple[NDArray[np.float32], int]:
    """The thing's mask and how wide a plate shows around it, in pixels."""
    if kind == "word":
        return assets.words[name, rng.choice(FONT_SIZES)], 2
    if kind == "digit":
        size = rng.choice(DIGIT_SIZES)
        return resize(rng.choice(assets.digits[int(name)]), size, size), 2
    return rng.choice(assets.shapes[name, rng.choice(SHAPE_SIZES)]), 0


def _free_box(
    rng: random.Random, height: int, width: int, things: list[Thing]
) -> tuple[int, int, int, int] | None:
    """A box that touches no other, or None after 25 tries."""
    for _ in range(25):
        top = rng.randint(0, (IMAGE_SIZE - height) // SNAP) * SNAP
        left = rng.randint(0, (IMAGE_SIZE - width) // SNAP) * SNAP
        bottom, right = top + height, left + width
        if all(
            bottom + 1 < t.box[0] or t.box[2] + 1 < top or right + 1 < t.box[1] or t.box[3] + 1 < left
            for t in things
        ):
            return top, left, bottom, right
    return None


def _paint(
    rng: random.Random, pixels: NDArray[np.float32], thing: Thing, mask: NDArray[np.float32], pad: int
) -> None:
    """Blend a shape in its colour, or a writing on its plate, into the picture."""
    top, left, bottom, right = thing.box
    region = pixels[top:bottom, left:right]
    if thing.color is not None:
        shade = rng.uniform(0.82, 1.05)
        ink = np.array([c * shade + rng.gauss(0, 8) for c in COLORS[thing.color]], np.float32)
        region += mask[..., None] * (ink - region)
        return
    dark = rng.random() < 0.5
    plate = np.array([rng.uniform(0, 60) if dark else rng.uniform(195, 255) for _ in range(3)], np.float32)
    ink = np.array([rng.uniform(170, 255) if dark else rng.uniform(0, 90) for _ in range(3)], np.float32)
    region += rng.uniform(0.75, 1.0) * (plate - region)
    inner = region[pad:-pad, pad:-pad]
    inner += mask[..., None] * (ink - inner)
