"""What can be asked about a scene of world 2 without ambiguity: text and truth, before they become a question.

Two-hop questions name a thing by where it lies relative to another: "What color is the star left of the apple?" is
asked where there are two stars or more, and exactly one of them is left of the apple.
"""

import random
from collections import Counter

from zoo_exp.embedded.questions import ATTEMPTS
from zoo_exp.embedded.vocabulary import COLOR_NAMES, SHAPES
from zoo_exp.embedded.world2.layout import Item, Scene2
from zoo_exp.embedded.world2.lexicon import CATEGORIES, CATEGORY_OF, PICTOGRAMS

MIDLINE_MARGIN = 7  # pixels: nearer to the middle, a side would be a matter of taste
MIN_DISTANCE = 10  # pixels between two things whose relation is asked
SIDE_MARGIN = 6  # pixels by which every candidate of a two-hop question is on one side or the other
MAX_COUNT = 6
DIRECTIONS = ("left of", "right of", "above", "below")
VOWELS = "aeiou"

Found = tuple[str, str]


def unique(things: list[Item], *attributes: str) -> list[Item]:
    """Things that no other shares these attributes with."""
    key = [tuple(getattr(thing, name) for name in attributes) for thing in things]
    counts = Counter(key)
    return [thing for thing, k in zip(things, key, strict=True) if counts[k] == 1]


def callable_things(scene: Scene2) -> list[Item]:
    """Things that a name can mean: unique pairs of colour and shape, unique pictograms, the only word or digit."""
    single = [thing for kind in ("word", "digit") for thing in unique(scene.of(kind), "kind")]
    return unique(scene.shapes, "color", "name") + unique(scene.of("pictogram"), "name") + single


def call(rng: random.Random, thing: Item, scene: Scene2) -> str:
    """A name that fits this thing only."""
    if thing.kind in ("word", "digit"):
        return thing.kind
    if thing.kind == "pictogram":
        return thing.name
    alone = sum(other.name == thing.name for other in scene.shapes) == 1
    return thing.name if alone and rng.random() < 0.6 else f"{thing.color} {thing.name}"


def with_article(phrase: str) -> str:
    """`an apple`, `a red star`."""
    return f"{'an' if phrase[0] in VOWELS else 'a'} {phrase}"


def lies(thing: Item, direction: str, other: Item) -> float:
    """By how many pixels the thing lies in a direction of the other (negative: on the opposite side)."""
    return {
        "left of": other.x - thing.x,
        "right of": thing.x - other.x,
        "above": other.y - thing.y,
        "below": thing.y - other.y,
    }[direction]


def only_one(things: list[Item], direction: str, anchor: Item) -> Item | None:
    """The one thing on that side of the anchor, where all others are clearly on the opposite side."""
    distances = [lies(thing, direction, anchor) for thing in things]
    if any(abs(distance) < SIDE_MARGIN for distance in distances):
        return None
    there = [thing for thing, distance in zip(things, distances, strict=True) if distance > 0]
    return there[0] if len(there) == 1 else None


def two_hop(scene: Scene2, rng: random.Random) -> Found | None:
    """Colour, shape, name or digit of a thing that only its side of an anchor tells from others of its class."""
    names = Counter(thing.name for thing in scene.shapes)
    colors = Counter(thing.color for thing in scene.shapes)
    shown = Counter(CATEGORY_OF.get(thing.name) for thing in scene.of("pictogram"))
    classes: list[tuple[str, str]] = [("name", n) for n, count in names.items() if 2 <= count <= 3]
    classes += [("color", c) for c, count in colors.items() if 2 <= count <= 3 and c is not None]
    classes += [("category", c) for c, count in shown.items() if 2 <= count <= 3 and c is not None]
    if len(scene.of("digit")) == 2:
        classes += [("digit", "digit")] * 2
    anchors = [thing for thing in callable_things(scene) if thing.kind != "shape"]
    if not classes or not anchors:
        return None
    for _ in range(ATTEMPTS):
        attribute, value = rng.choice(classes)
        anchor, direction = rng.choice(anchors), rng.choice(DIRECTIONS)
        things = members(scene, attribute, value)
        thing = only_one(things, direction, anchor)
        if thing is not None and anchor not in things:
            break
    else:
        return None
    where = f"{direction} the {call(rng, anchor, scene)}"
    if attribute == "name":
        return f"What color is the {value} {where}?", str(thing.color)
    if attribute == "color":
        return f"What shape is the {value} object {where}?", thing.name
    return f"What {value} is {where}?", thing.name


def members(scene: Scene2, attribute: str, value: str) -> list[Item]:
    """The things of a class: shapes of a name or colour, pictograms of a category, or digits."""
    if attribute == "digit":
        return scene.of("digit")
    if attribute == "category":
        return [thing for thing in scene.of("pictogram") if CATEGORY_OF.get(thing.name) == value]
    return [thing for thing in scene.shapes if getattr(thing, attribute) == value]


def color_of(scene: Scene2, rng: random.Random) -> Found | None:
    """Question "What color is the star?" and the colour, for a shape that is there once."""
    things = unique(scene.shapes, "name")
    thing = rng.choice(things) if things else None
    return thing and (f"What color is the {thing.name}?", str(thing.color))


def shape_of(scene: Scene2, rng: random.Random) -> Found | None:
    """Question "What shape is the red object?" and the shape, for a colour that is there once among shapes."""
    things = unique(scene.shapes, "color")
    thing = rng.choice(things) if things else None
    return thing and (f"What shape is the {thing.color} object?", thing.name)


def relation(scene: Scene2, rng: random.Random) -> Found | None:
    """Left, right, above or below, between two things that have names of their own."""
    things = callable_things(scene)
    if len(things) < 2:
        return None
    one, other = rng.sample(things, 2)
    dx, dy = one.x - other.x, one.y - other.y
    if max(abs(dx), abs(dy)) < MIN_DISTANCE or abs(abs(dx) - abs(dy)) < 3:
        return None
    first, second = call(rng, one, scene), call(rng, other, scene)
    if abs(dx) > abs(dy):
        return f"Is the {first} left or right of the {second}?", "left" if dx < 0 else "right"
    return f"Is the {first} above or below the {second}?", "above" if dy < 0 else "below"


def count(scene: Scene2, rng: random.Random, attribute: str) -> tuple[str, int] | None:
    """Question "How many star objects?" and the number, by shape (`name`), colour, or category of pictograms."""
    if attribute == "category":
        there = [CATEGORY_OF.get(thing.name, "") for thing in scene.of("pictogram")]
        wanted = rng.choice(list(CATEGORIES))
    else:
        there = [str(getattr(thing, attribute)) for thing in scene.shapes]
        everything = SHAPES if attribute == "name" else COLOR_NAMES
        wanted = rng.choice(there) if there and rng.random() < 0.75 else rng.choice(everything)
    number = there.count(wanted)
    return None if number > MAX_COUNT else (f"How many {wanted} objects?", number)


def category_of(scene: Scene2, rng: random.Random) -> tuple[str, str, str] | None:
    """Question "What animal is shown?", the name, and the category, where there is one of the category."""
    things = [thing for thing in scene.of("pictogram") if thing.name in CATEGORY_OF]
    counts = Counter(CATEGORY_OF[thing.name] for thing in things)
    single = [thing for thing in things if counts[CATEGORY_OF[thing.name]] == 1]
    if not single:
        return None
    thing = rng.choice(single)
    return f"What {CATEGORY_OF[thing.name]} is shown?", thing.name, CATEGORY_OF[thing.name]


def reading(scene: Scene2, rng: random.Random) -> tuple[str, str, str] | None:
    """Which word or digit is written; with two of them, the one that lies farther in a direction."""
    kinds = [kind for kind in ("word", "digit") if 1 <= len(scene.of(kind)) <= 2]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    things = scene.of(kind)
    if len(things) == 1:
        return f"What {kind} is written?", things[0].name, kind
    found = one_of_two(things, rng)
    return found and (f"What {kind} is {found[1]}?", found[0].name, kind)


def one_of_two(things: list[Item], rng: random.Random) -> tuple[Item, str] | None:
    """One of two things, and the words "on the left" (right, top, bottom) that tell which."""
    axis, ends = rng.choice((("x", ("left", "right")), ("y", ("top", "bottom"))))
    places = sorted(things, key=lambda thing: getattr(thing, axis))
    if getattr(places[1], axis) - getattr(places[0], axis) < MIN_DISTANCE:
        return None
    which = rng.randrange(2)
    return places[which], f"on the {ends[which]}"


def clear_of_midlines(thing: Item, scene: Scene2) -> bool:
    """Whether it is beyond doubt in which quarter of the image the thing lies."""
    return min(abs(thing.x - scene.width / 2), abs(thing.y - scene.height / 2)) >= MIDLINE_MARGIN


def describe_present(scene: Scene2, rng: random.Random) -> tuple[str, str] | None:
    """A name or category of something that is there, and how hard POPE calls it."""
    draw = rng.random()
    if draw < 0.4:
        things = scene.of("pictogram")
        if not things:
            return None
        name = rng.choice(things).name
        return (CATEGORY_OF[name] if name in CATEGORY_OF and draw < 0.1 else name), "random"
    if not scene.shapes:
        return None
    thing = rng.choice(scene.shapes)
    return rng.choice([thing.name, f"{thing.color} object", f"{thing.color} {thing.name}"]), "random"


def describe_absent(scene: Scene2, rng: random.Random) -> tuple[str, str] | None:
    """Something that is not there; adversarial where its shape and its colour both are, on different things."""
    draw = rng.random()
    if draw < 0.4:
        shown = {thing.name for thing in scene.of("pictogram")}
        categories = {CATEGORY_OF.get(name) for name in shown}
        free = [c for c in CATEGORIES if c not in categories]
        if draw < 0.1:
            return (rng.choice(free), "popular") if free else None
        absent = [name for name in PICTOGRAMS if name not in shown]
        return (rng.choice(absent), "popular") if absent else None
    names = {thing.name for thing in scene.shapes}
    colors = {str(thing.color) for thing in scene.shapes}
    pairs = {(thing.color, thing.name) for thing in scene.shapes}
    if draw < 0.55:
        absent = [name for name in SHAPES if name not in names]
        return (rng.choice(absent), "popular") if absent else None
    if draw < 0.7:
        absent = [color for color in COLOR_NAMES if color not in colors]
        return (f"{rng.choice(absent)} object", "popular") if absent else None
    mixed = sorted(f"{c} {n}" for c in colors for n in names if (c, n) not in pairs)
    if mixed and rng.random() < 0.7:
        return rng.choice(mixed), "adversarial"
    color, name = rng.choice(COLOR_NAMES), rng.choice(SHAPES)
    return None if (color, name) in pairs else (f"{color} {name}", "random")
