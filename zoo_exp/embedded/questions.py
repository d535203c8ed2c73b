"""Nine families of questions about a scene, one per benchmark of the paper.

A maker takes a scene and a random stream and gives a `Question`, or None where the scene has no
unambiguous one of its kind. Shapes, colours and sides are named only where exactly one thing fits.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from zoo_exp.embedded import facts
from zoo_exp.embedded.facts import MIDDLE
from zoo_exp.embedded.scene import Scene
from zoo_exp.embedded.vocabulary import COLOR_NAMES, DIGITS, LETTERS, QUADRANTS, SHAPES, WORDS

ATTEMPTS = 8


@dataclass(frozen=True)
class Question:
    """What is asked: `answer` is a word, or the letter of the right option; `topic` is the sub-task."""

    text: str
    answer: str
    options: tuple[str, ...] = ()
    topic: str = ""

    @property
    def prompt(self) -> str:
        """The question as the model reads it: the text, then one line per option."""
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False)]
        return "\n".join([self.text, *lines])


Maker = Callable[[Scene, random.Random], Question | None]


def ask(family: str, scene: Scene, rng: random.Random) -> Question | None:
    """A question of the family, after a few attempts at what the scene allows."""
    for _ in range(ATTEMPTS):
        question = FAMILIES[family](scene, rng)
        if question is not None:
            return question
    return None


def _choice(
    rng: random.Random, text: str, right: str, pool: list[str], topic: str, options: int = 4
) -> Question:
    """Multiple choice: the right option among distractors from `pool`, in random order."""
    wrong = [name for name in pool if name != right]
    chosen = [*rng.sample(wrong, min(options - 1, len(wrong))), right]
    rng.shuffle(chosen)
    return Question(text, LETTERS[chosen.index(right)], tuple(chosen), topic)


def _yes_no(text: str, answer: bool, topic: str) -> Question:
    return Question(text, "yes" if answer else "no", (), topic)


def _existence(scene: Scene, rng: random.Random, present: bool) -> Question | None:
    found = (facts.describe_present if present else facts.describe_absent)(scene, rng)
    return found and _yes_no(f"Is there a {found[0]}?", present, found[1])


def pope(scene: Scene, rng: random.Random) -> Question | None:
    """Is something there? (POPE); half the answers are yes."""
    return _existence(scene, rng, rng.random() < 0.5)


def gqa(scene: Scene, rng: random.Random) -> Question | None:
    """Colour, shape, or spatial relation (GQA)."""
    draw = rng.random()
    if draw < 0.3:
        found, topic = facts.color_of(scene, rng), "color"
    elif draw < 0.6:
        found, topic = facts.shape_of(scene, rng), "shape"
    else:
        found, topic = facts.relation(scene, rng), "relation"
    return found and Question(*found, (), topic)


def vqav2(scene: Scene, rng: random.Random) -> Question | None:
    """Counting, colour, existence (VQAv2)."""
    draw = rng.random()
    if draw < 0.6:
        text, number = facts.count(scene, rng, "name" if draw < 0.3 else "color")
        return Question(text, str(number), (), "number")
    if draw < 0.8:
        found = facts.color_of(scene, rng)
        return found and Question(*found, (), "other")
    question = pope(scene, rng)
    return question and Question(question.text, question.answer, (), "yes/no")


def textvqa(scene: Scene, rng: random.Random) -> Question | None:
    """Read the word or the digit (TextVQA)."""
    found = facts.reading(scene, rng)
    return found and Question(found[0], found[1], (), found[2])


def mmbench(scene: Scene, rng: random.Random) -> Question | None:
    """Colour, shape or word with four options (MMBench)."""
    draw = rng.random()
    if draw < 0.4:
        found = facts.color_of(scene, rng)
        return found and _choice(rng, *found, list(COLOR_NAMES), "attribute_recognition")
    if draw < 0.8:
        found = facts.shape_of(scene, rng)
        return found and _choice(rng, *found, list(SHAPES), "object_recognition")
    written = [thing for thing in scene.writings if thing.kind == "word"]
    if not written:
        return None
    return _choice(rng, "What word is written?", written[0].name, list(WORDS), "ocr")


def seedbench(scene: Scene, rng: random.Random) -> Question | None:
    """Where a thing is, or how many there are, with four options (SEED-Bench)."""
    if rng.random() < 0.6:
        things = [thing for thing in facts.pairs_unique(scene.shapes) if facts.clear_of_midlines(thing)]
        if not things:
            return None
        thing = rng.choice(things)
        side = ("upper" if thing.y < MIDDLE else "lower") + ("-left" if thing.x < MIDDLE else "-right")
        text = f"Where is the {facts.call(rng, thing, scene.shapes)}?"
        return _choice(rng, text, side, list(QUADRANTS), "instance_location")
    text, number = facts.count(scene, rng, "name")
    if number > 4:
        return None
    return _choice(rng, text, str(number), [str(i) for i in range(5)], "instances_counting")


def scienceqa(scene: Scene, rng: random.Random) -> Question | None:
    """Parity and size of the digit; three in ten need no image at all (ScienceQA)."""
    if rng.random() < 0.3:
        low, high = sorted(rng.sample(range(10), 2))
        return _choice(rng, "Which number is larger?", str(high), [str(low)], "numbers", 2)
    digits = [int(thing.name) for thing in scene.writings if thing.kind == "digit"]
    if not digits:
        return None
    if rng.random() < 0.5:
        return _choice(
            rng, "Is the digit even or odd?", ("even", "odd")[digits[0] % 2], ["even", "odd"], "parity", 2
        )
    if digits[0] == 5:
        return None
    size = "larger" if digits[0] > 5 else "smaller"
    return _choice(rng, "Is the digit larger or smaller than 5?", size, ["larger", "smaller"], "size", 2)


def mmmu(scene: Scene, rng: random.Random) -> Question | None:
    """Arithmetic on the digit, or which of two shapes is more common (MMMU)."""
    digits = [int(thing.name) for thing in scene.writings if thing.kind == "digit"]
    if digits and rng.random() < 0.5:
        step = rng.randint(1, 3)
        numbers = [str(i) for i in range(1, 13)]
        return _choice(rng, f"What is the digit plus {step}?", str(digits[0] + step), numbers, "Math")
    names = [thing.name for thing in scene.shapes]
    if len(names) < 2:
        return None
    there = sorted(set(names))
    one, other = rng.sample(there if len(there) > 1 and rng.random() < 0.8 else SHAPES, 2)
    first, second = names.count(one), names.count(other)
    right = one if first > second else other if second > first else "equal"
    return _choice(
        rng, f"Which is more common {one} or {other}?", right, [one, other, "equal"], "Statistics", 3
    )


MME_TOPICS = ("existence", "count", "color", "position", "OCR")


def mme(scene: Scene, rng: random.Random) -> Question | None:
    """One question of a random sub-task (MME)."""
    pair = mme_pair(scene, rng)
    return pair and rng.choice(pair)


def mme_pair(scene: Scene, rng: random.Random, topic: str | None = None) -> tuple[Question, Question] | None:
    """Two questions of one sub-task about one image, the first answered yes and the second no."""
    topic = topic or rng.choice(MME_TOPICS)
    if topic == "existence":
        yes, no = _existence(scene, rng, True), _existence(scene, rng, False)
        if yes is None or no is None:
            return None
        return _yes_no(yes.text, True, topic), _yes_no(no.text, False, topic)
    asked = _MME_ASKS[topic](scene, rng)
    return asked and (_yes_no(asked[0], True, topic), _yes_no(asked[1], False, topic))


def _mme_count(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    if not scene.shapes:
        return None
    names = [thing.name for thing in scene.shapes]
    name = rng.choice(names)
    number = names.count(name)
    wrong = number + rng.choice((-1, 1))
    return f"Are there {number} {name} objects?", f"Are there {wrong} {name} objects?"


def _mme_color(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    things = facts.unique(scene.shapes, "name")
    if not things:
        return None
    thing = rng.choice(things)
    wrong = rng.choice([color for color in COLOR_NAMES if color != thing.color])
    return f"Is the {thing.name} {thing.color}?", f"Is the {thing.name} {wrong}?"


def _mme_position(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    things = [thing for thing in facts.pairs_unique(scene.shapes) if facts.clear_of_midlines(thing)]
    if not things:
        return None
    thing = rng.choice(things)
    across = rng.random() < 0.5
    low, high = ("left", "right") if across else ("top", "bottom")
    place = thing.x if across else thing.y
    right, wrong = (low, high) if place < MIDDLE else (high, low)
    name = f"{thing.color} {thing.name}"
    return f"Is the {name} in the {right} half?", f"Is the {name} in the {wrong} half?"


def _mme_ocr(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    if not scene.writings:
        return None
    thing = rng.choice(scene.writings)
    pool = WORDS if thing.kind == "word" else DIGITS
    wrong = rng.choice([name for name in pool if name != thing.name])
    return f"Is the {thing.kind} {thing.name}?", f"Is the {thing.kind} {wrong}?"


_MME_ASKS: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    "count": _mme_count,
    "color": _mme_color,
    "position": _mme_position,
    "OCR": _mme_ocr,
}

FAMILIES: dict[str, Maker] = {
    "pope": pope,
    "gqa": gqa,
    "vqav2": vqav2,
    "textvqa": textvqa,
    "mmbench": mmbench,
    "seedbench": seedbench,
    "scienceqa": scienceqa,
    "mme": mme,
    "mmmu": mmmu,
}
