"""The closed vocabulary of the embedded world and the tokenizer over it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
COLORS = {
    "red": (215, 35, 35),
    "green": (35, 165, 60),
    "blue": (45, 75, 225),
    "yellow": (240, 215, 45),
    "purple": (150, 50, 185),
    "orange": (245, 135, 25),
    "cyan": (60, 205, 220),
    "white": (245, 245, 245),
}
COLOR_NAMES = tuple(COLORS)
DIGITS = tuple(str(i) for i in range(10))
WORDS = (
    *("cat", "dog", "sun", "map", "bus", "key", "cup", "hat"),
    *("box", "pen", "exit", "stop", "open", "milk", "fish", "tree"),
)
QUADRANTS = ("upper-left", "upper-right", "lower-left", "lower-right")
LETTERS = ("A", "B", "C", "D")

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
USER, ASSISTANT = "USER:", "ASSISTANT:"
GLUE = (
    "Is there a What color shape is the object objects How many are Are left right of or above below "
    "word digit written Where in half Which number larger smaller than even odd plus more common equal "
    "top bottom yes no ?"
)

# A closed list in a fixed order: a token's number is part of the trained weights.
TOKENS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [PAD, BOS, EOS, UNK, IMAGE, USER, ASSISTANT, *LETTERS]
        + [str(i) for i in range(13)]
        + [*SHAPES, *COLOR_NAMES, *WORDS, *QUADRANTS, *GLUE.split()]
    )
)
TOKEN_ID = {token: number for number, token in enumerate(TOKENS)}

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def words(text: str) -> list[str]:
    r"""Split a prompt into vocabulary words: question marks stand alone, full stops vanish ("A. red" is A, red).

    >>> words("What color is it?\nA. red")
    ['What', 'color', 'is', 'it', '?', 'A', 'red']
    """
    return text.replace("?", " ?").replace(".", " ").split()


def token_ids(text: str) -> list[int]:
    """Token numbers of a prompt; the training loop's fast path, equal to the tokenizer's answer (a test says so)."""
    unknown = TOKEN_ID[UNK]
    return [TOKEN_ID.get(word, unknown) for word in words(text)]


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """Word-level tokenizer with the same splitting rule as `words`, saved beside the weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(TOKEN_ID), unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("?", " ?"), normalizers.Replace(".", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, TOKEN_ID[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
