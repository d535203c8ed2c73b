"""Nine families of questions about a scene of world 2, one per benchmark of the paper.

A maker takes a scene and a random stream and gives a `Question`, or None where the scene has no unambiguous one of
its kind.
"""

import random
from collections.abc import Callable

from zoo_exp.embedded.questions import ATTEMPTS, Question, _choice, _yes_no
from zoo_exp.embedded.vocabulary import COLOR_NAMES, DIGITS, QUADRANTS, SHAPES, WORDS
from zoo_exp.embedded.world2 import truths
from zoo_exp.embedded.world2.layout import Scene2
from zoo_exp.embedded.world2.lexicon import CATEGORIES

Maker2 = Callable[[Scene2, random.Random], Question | None]


def ask_2(family: str, scene: Scene2, rng: random.Random) -> Question | None:
    """A question of the family, after a few attempts at what the scene allows."""
    for _ in range(ATTEMPTS):
        question = FAMILIES_2[family](scene, rng)
        if question is not None:
            return question
    return None


def _existence(scene: Scene2, rng: random.Random, present: bool) -> Question | None:
    found = (truths.describe_present if present else truths.describe_absent)(scene, rng)
    return found and _yes_no(f"Is there {truths.with_article(found[0])}?", present, found[1])


def pope(scene: Scene2, rng: random.Random) -> Question | None:
    """Is something there? (POPE); half the answers are yes."""
    return _existence(scene, rng, rng.random() < 0.5)


def gqa(scene: Scene2, rng: random.Random) -> Question | None:
    """Colour, shape, what is shown, spatial relation, or two hops (GQA)."""
    draw = rng.random()
    if draw < 0.17:
        found, topic = truths.color_of(scene, rng), "color"
    elif draw < 0.34:
        found, topic = truths.shape_of(scene, rng), "shape"
    elif draw < 0.52:
        shown = truths.category_of(scene, rng)
        found, topic = shown and shown[:2], "object"
    elif draw < 0.76:
        found, topic = truths.relation(scene, rng), "relation"
    else:
        found, topic = truths.two_hop(scene, rng), "two-hop"
    return found and Question(*found, (), topic)


def vqav2(scene: Scene2, rng: random.Random) -> Question | None:
    """Counting, colour, existence (VQAv2)."""
    draw = rng.random()
    if draw < 0.45:
        counted = truths.count(scene, rng, "name" if draw < 0.18 else "color" if draw < 0.36 else "category")
        return counted and Question(counted[0], str(counted[1]), (), "number")
    if draw < 0.75:
        found = truths.color_of(scene, rng)
        return found and Question(*found, (), "other")
    question = pope(scene, rng)
    return question and Question(question.text, question.answer, (), "yes/no")


def textvqa(scene: Scene2, rng: random.Random) -> Question | None:
    """Read a word or a digit (TextVQA)."""
    found = truths.reading(scene, rng)
    return found and Question(found[0], found[1], (), found[2])


def mmbench(scene: Scene2, rng: random.Random) -> Question | None:
    """Colour, shape, pictogram or word with four options (MMBench)."""
    draw = rng.random()
    if draw < 0.25:
        found = truths.color_of(scene, rng)
        return found and _choice(rng, *found, list(COLOR_NAMES), "attribute_recognition")
    if draw < 0.5:
        found = truths.shape_of(scene, rng)
        return found and _choice(rng, *found, list(SHAPES), "object_recognition")
    if draw < 0.75:
        shown = truths.category_of(scene, rng)
        return shown and _choice(rng, *shown[:2], list(CATEGORIES[shown[2]]), "object_recognition")
    words = scene.of("word")
    if len(words) != 1:
        return None
    return _choice(rng, "What word is written?", words[0].name, list(WORDS), "ocr")


def seedbench(scene: Scene2, rng: random.Random) -> Question | None:
    """Where a thing is, or how many there are, with four options (SEED-Bench)."""
    if rng.random() < 0.65:
        things = [thing for thing in truths.callable_things(scene) if truths.clear_of_midlines(thing, scene)]
        if not things:
            return None
        thing = rng.choice(things)
        upper, left = thing.y < scene.height / 2, thing.x < scene.width / 2
        side = ("upper" if upper else "lower") + ("-left" if left else "-right")
        text = f"Where is the {truths.call(rng, thing, scene)}?"
        return _choice(rng, text, side, list(QUADRANTS), "instance_location")
    counted = truths.count(scene, rng, rng.choice(("name", "color")))
    if counted is None or counted[1] > 4:
        return None
    return _choice(rng, counted[0], str(counted[1]), [str(i) for i in range(5)], "instances_counting")


def scienceqa(scene: Scene2, rng: random.Random) -> Question | None:
    """Parity and size of a digit; the rest needs no image (ScienceQA)."""
    if rng.random() < 0.1:
        low, high = sorted(rng.sample(range(10), 2))
        return _choice(rng, "Which number is larger?", str(high), [str(low)], "numbers", 2)
    digits = scene.of("digit")
    if not digits:
        return None
    found = (digits[0], "") if len(digits) == 1 else truths.one_of_two(digits, rng)
    if found is None:
        return None
    number, phrase = int(found[0].name), f"digit {found[1]}".strip()
    if rng.random() < 0.5:
        parity = ("even", "odd")[number % 2]
        return _choice(rng, f"Is the {phrase} even or odd?", parity, ["even", "odd"], "parity", 2)
    if number == 5:
        return None
    size = "larger" if number > 5 else "smaller"
    return _choice(rng, f"Is the {phrase} larger or smaller than 5?", size, ["larger", "smaller"], "size", 2)


def mmmu(scene: Scene2, rng: random.Random) -> Question | None:
    """Arithmetic on the only digit, or which of two shapes is more common (MMMU)."""
    digits = [int(thing.name) for thing in scene.of("digit")]
    if len(digits) == 1 and rng.random() < 0.55:
        step = rng.randint(1, 3)
        numbers = [str(i) for i in range(1, 13)]
        return _choice(rng, f"What is the digit plus {step}?", str(digits[0] + step), numbers, "Math")
    names = [thing.name for thing in scene.shapes]
    there = sorted(set(names))
    if len(there) < 2:
        return None
    one, other = rng.sample(there if rng.random() < 0.8 else SHAPES, 2)
    first, second = names.count(one), names.count(other)
    right = one if first > second else other if second > first else "equal"
    text = f"Which is more common {one} or {other}?"
    return _choice(rng, text, right, [one, other, "equal"], "Statistics", 3)


MME_TOPICS_2 = ("existence", "count", "color", "position", "OCR")


def mme(scene: Scene2, rng: random.Random) -> Question | None:
    """One question of a random sub-task (MME)."""
    pair = mme_pair_2(scene, rng)
    return pair and rng.choice(pair)


def mme_pair_2(
    scene: Scene2, rng: random.Random, topic: str | None = None
) -> tuple[Question, Question] | None:
    """Two questions of one sub-task about one image, the first answered yes and the second no."""
    topic = topic or rng.choice(MME_TOPICS_2)
    if topic == "existence":
        yes, no = _existence(scene, rng, True), _existence(scene, rng, False)
        if yes is None or no is None:
            return None
        return _yes_no(yes.text, True, topic), _yes_no(no.text, False, topic)
    asked = _MME_ASKS_2[topic](scene, rng)
    return asked and (_yes_no(asked[0], True, topic), _yes_no(asked[1], False, topic))


def _mme_count(scene: Scene2, rng: random.Random) -> truths.Found | None:
    names = [thing.name for thing in scene.shapes]
    if not names:
        return None
    name = rng.choice(names)
    number = names.count(name)
    wrong = number + rng.choice((-1, 1))
    if max(number, wrong) > truths.MAX_COUNT:
        return None
    return f"Are there {number} {name} objects?", f"Are there {wrong} {name} objects?"


def _mme_color(scene: Scene2, rng: random.Random) -> truths.Found | None:
    things = truths.unique(scene.shapes, "name")
    if not things:
        return None
    thing = rng.choice(things)
    wrong = rng.choice([color for color in COLOR_NAMES if color != thing.color])
    return f"Is the {thing.name} {thing.color}?", f"Is the {thing.name} {wrong}?"


def _mme_position(scene: Scene2, rng: random.Random) -> truths.Found | None:
    things = [thing for thing in truths.callable_things(scene) if truths.clear_of_midlines(thing, scene)]
    if not things:
        return None
    thing = rng.choice(things)
    across = rng.random() < 0.5
    low, high = ("left", "right") if across else ("top", "bottom")
    before = thing.x < scene.width / 2 if across else thing.y < scene.height / 2
    right, wrong = (low, high) if before else (high, low)
    name = truths.call(rng, thing, scene)
    return f"Is the {name} in the {right} half?", f"Is the {name} in the {wrong} half?"


def _mme_ocr(scene: Scene2, rng: random.Random) -> truths.Found | None:
    things = [thing for kind in ("word", "digit") for thing in truths.unique(scene.of(kind), "kind")]
    if not things:
        return None
    thing = rng.choice(things)
    pool = WORDS if thing.kind == "word" else DIGITS
    wrong = rng.choice([name for name in pool if name != thing.name])
    return f"Is the {thing.kind} {thing.name}?", f"Is the {thing.kind} {wrong}?"


_MME_ASKS_2: dict[str, Callable[[Scene2, random.Random], truths.Found | None]] = {
    "count": _mme_count,
    "color": _mme_color,
    "position": _mme_position,
    "OCR": _mme_ocr,
}

FAMILIES_2: dict[str, Maker2] = {
    **{"pope": pope, "gqa": gqa, "vqav2": vqav2, "textvqa": textvqa, "mmbench": mmbench},
    **{"seedbench": seedbench, "scienceqa": scienceqa, "mme": mme, "mmmu": mmmu},
}
