"""What can be asked about a scene without ambiguity: text and truth, before they become a question."""

import random
from collections import Counter

from zoo_exp.embedded.scene import IMAGE_SIZE, Scene, Thing
from zoo_exp.embedded.vocabulary import COLOR_NAMES, SHAPES

MIDDLE = IMAGE_SIZE / 2
MIDLINE_MARGIN = 7  # pixels: nearer to the middle, a side would be a matter of taste
MIN_DISTANCE = 10  # pixels between two things whose relation is asked


def unique(things: list[Thing], attribute: str) -> list[Thing]:
    """Things that nobody else shares the attribute (name or color) with."""
    counts = Counter(getattr(thing, attribute) for thing in things)
    return [thing for thing in things if counts[getattr(thing, attribute)] == 1]


def pairs_unique(things: list[Thing]) -> list[Thing]:
    """Things whose colour and shape together are unique."""
    counts = Counter((thing.color, thing.name) for thing in things)
    return [thing for thing in things if counts[thing.color, thing.name] == 1]


def call(rng: random.Random, thing: Thing, things: list[Thing]) -> str:
    """A name that fits this thing only: the shape alone where that is enough, in some of the cases."""
    alone = thing in unique(things, "name")
    return thing.name if alone and rng.random() < 0.6 else f"{thing.color} {thing.name}"


def describe_present(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """A name for something that is there, and how hard POPE calls it."""
    if not scene.shapes:
        return None
    thing = rng.choice(scene.shapes)
    return rng.choice([thing.name, f"{thing.color} object", f"{thing.color} {thing.name}"]), "random"


def describe_absent(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Something that is not there; adversarial where its shape and its colour both are, on different things."""
    names = {thing.name for thing in scene.shapes}
    colors = {thing.color for thing in scene.shapes}
    pairs = {(thing.color, thing.name) for thing in scene.shapes}
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice([name for name in SHAPES if name not in names]), "popular"
    if kind == 1:
        free = [color for color in COLOR_NAMES if color not in colors]
        return (f"{rng.choice(free)} object", "popular") if free else None
    mixed = sorted(f"{c} {n}" for c in colors for n in names if c is not None and (c, n) not in pairs)
    if mixed and rng.random() < 0.6:
        return rng.choice(mixed), "adversarial"
    color, name = rng.choice(COLOR_NAMES), rng.choice(SHAPES)
    return None if (color, name) in pairs else (f"{color} {name}", "random")


def color_of(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Question "What color is the star?" and the colour, for a shape that is there once."""
    things = unique(scene.shapes, "name")
    if not things:
        return None
    thing = rng.choice(things)
    assert thing.color is not None
    return f"What color is the {thing.name}?", thing.color


def shape_of(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Question "What shape is the red object?" and the shape, for a colour that is there once."""
    things = unique(scene.shapes, "color")
    if not things:
        return None
    thing = rng.choice(things)
    return f"What shape is the {thing.color} object?", thing.name


def relation(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Left, right, above or below, between two things that have names of their own."""
    things = pairs_unique(scene.shapes)
    if len(things) < 2:
        return None
    one, other = rng.sample(things, 2)
    dx, dy = one.x - other.x, one.y - other.y
    if max(abs(dx), abs(dy)) < MIN_DISTANCE:
        return None
    first, second = call(rng, one, scene.shapes), call(rng, other, scene.shapes)
    if abs(dx) > abs(dy):
        return f"Is the {first} left or right of the {second}?", "left" if dx < 0 else "right"
    return f"Is the {first} above or below the {second}?", "above" if dy < 0 else "below"


def count(scene: Scene, rng: random.Random, attribute: str) -> tuple[str, int]:
    """Question "How many star objects?" and the number, by shape (`name`) or by colour (`color`)."""
    there = [getattr(thing, attribute) for thing in scene.shapes]
    everything = SHAPES if attribute == "name" else COLOR_NAMES
    wanted = rng.choice(there) if there and rng.random() < 0.75 else rng.choice(everything)
    return f"How many {wanted} objects?", there.count(wanted)


def reading(scene: Scene, rng: random.Random) -> tuple[str, str, str] | None:
    """Question "What word is written?", what it says, and whether it is a word or a digit."""
    if not scene.writings:
        return None
    thing = rng.choice(scene.writings)
    return f"What {thing.kind} is written?", thing.name, thing.kind


def clear_of_midlines(thing: Thing) -> bool:
    """Whether it is beyond doubt in which quarter of the picture the thing lies."""
    return abs(thing.x - MIDDLE) >= MIDLINE_MARGIN and abs(thing.y - MIDDLE) >= MIDLINE_MARGIN
