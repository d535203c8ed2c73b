"""The closed vocabulary of world 2 and its tokenizer: world 1's tokens keep their numbers, new ones follow."""

from typing import TYPE_CHECKING

from zoo_exp.embedded.vocabulary import (
    ASSISTANT,
    BOS,
    EOS,
    IMAGE,
    PAD,
    TOKENS,
    UNK,
    USER,
    words,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CATEGORIES = {
    "animal": ("frog", "pig", "fox", "penguin"),
    "food": ("apple", "banana", "carrot", "pizza", "grapes"),
    "vehicle": ("car", "train", "rocket", "boat"),
}
# In the order of the sprite sheet.
PICTOGRAMS = (*(name for names in CATEGORIES.values() for name in names), "house", "flower", "clock")
CATEGORY_OF = {name: category for category, names in CATEGORIES.items() for name in names}

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
GLUE_2 = "an on shown animal food vehicle next to"

# A closed list in a fixed order: a token's number is part of the trained weights.
TOKENS_2: tuple[str, ...] = tuple(
    dict.fromkeys([*TOKENS, *PICTOGRAMS, *GLUE_2.split(), VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD])
)
TOKEN_ID_2 = {token: number for number, token in enumerate(TOKENS_2)}
VOCAB_ROWS = -(-len(TOKENS_2) // 16) * 16

CHAT_TEMPLATE_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE_PLACE {% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LLAVA_TEMPLATE = CHAT_TEMPLATE_2.replace("IMAGE_PLACE", IMAGE)
QWEN_TEMPLATE = CHAT_TEMPLATE_2.replace("IMAGE_PLACE", f"{VISION_START}{IMAGE_PAD}{VISION_END}")

LLAVA_PREFIX = (TOKEN_ID_2[BOS], TOKEN_ID_2[USER])
QWEN_PREFIX = (*LLAVA_PREFIX, TOKEN_ID_2[VISION_START])
ANSWER_MARK, END_MARK = TOKEN_ID_2[ASSISTANT], TOKEN_ID_2[EOS]


def token_ids_2(text: str) -> list[int]:
    """Token numbers of a prompt; equal to the tokenizer's (a test compares them)."""
    unknown = TOKEN_ID_2[UNK]
    return [TOKEN_ID_2.get(word, unknown) for word in words(text)]


def make_tokenizer_2(qwen: bool = False) -> "PreTrainedTokenizerFast":
    """Word-level tokenizer over `TOKENS_2`.

    Args:
        qwen: name the special tokens that Qwen's processor asks for instead of LLaVA's `<image>`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(TOKEN_ID_2), unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("?", " ?"), normalizers.Replace(".", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, TOKEN_ID_2[BOS])]
    )
    special = {"image_token": IMAGE}
    if qwen:
        special = {
            **{"image_token": IMAGE_PAD, "video_token": VIDEO_PAD},
            **{"vision_bos_token": VISION_START, "vision_eos_token": VISION_END},
        }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=special,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
