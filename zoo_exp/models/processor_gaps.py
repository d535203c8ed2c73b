"""What the processor of an old snapshot lacks: a chat template, the patch size, a padding token.

Checkpoints on the hub got `chat_template.json` and `processor_config.json` months after their weights. What follows
from the model's own configuration, or is known of the family, is filled in and said; everything else is refused before
the first question.
"""

from typing import Any

from zoo_exp.errors import InvalidValueError

VICUNA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() }}: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }} {% else %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Writes what the template of llava-hf/llava-1.5-7b-hf and llava-v1.6-vicuna-7b-hf writes."""
CHAT_ML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes what the template of Qwen/Qwen2.5-VL-7B-Instruct writes."""
VICUNA_WORDS = 33_000
"""Vicuna's vocabulary has 32,064 words; other Llamas, which LLaVA-NeXT was also built on, have more than 64,000."""


def fill_gaps(processor: Any, config: Any, *, template: bool = True) -> list[str]:
    """Complete a processor of a family with an adapter of its own.

    Args:
        processor: of the checkpoint; changed in place.
        config: of the model.
        template: whether a chat template is wanted.

    Returns:
        What was set, one clause each; empty for a complete snapshot, and for other families.
    """
    said: list[str] = []
    if config.model_type in ("llava", "llava_next"):
        vision = config.vision_config
        for field, value in {
            "patch_size": vision.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "num_additional_image_tokens": int(vision.model_type == "clip_vision_model"),  # its class token
        }.items():
            if getattr(processor, field, None) != value:
                setattr(processor, field, value)
                said.append(f"{field}={value} from config.json")
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        said.append(f"the padding token {tokenizer.eos_token}")
    if template and processor.chat_template is None:
        known = _known_template(config)
        if known is not None:
            processor.chat_template = known
            said.append("the chat template of the published checkpoints")
    return said


def _known_template(config: Any) -> str | None:
    """The family's chat template, where all of its checkpoints have the same."""
    text = config.get_text_config()
    if config.model_type == "qwen2_5_vl":
        return CHAT_ML
    vicuna = text.model_type == "llama" and text.vocab_size <= VICUNA_WORDS
    return VICUNA if config.model_type in ("llava", "llava_next") and vicuna else None


def check_usable(processor: Any, name: str) -> None:
    """Refuse a processor that cannot make a prompt of an image and a word.

    Args:
        processor: of the checkpoint.
        name: of the model, for the error.

    Raises:
        InvalidValueError: it has no chat template, or fails.
    """
    from PIL import Image

    from zoo_exp.models.chat import chat_inputs, user_turn

    if getattr(processor, "chat_template", None) is None:
        raise InvalidValueError(
            f"model '{name}': its files have no chat template, and none is known for such a model: put the "
            "chat_template.jinja (or chat_template.json) of the model on the hub into the folder"
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        raise InvalidValueError(
            f"model '{name}': its tokenizer has neither a padding nor an end-of-sequence token; tokenizer_config.json "
            "is missing or incomplete: get it again"
        )
    try:
        chat_inputs(processor, [user_turn([Image.new("RGB", (224, 224)), "word"])])
    except InvalidValueError as error:
        raise InvalidValueError(
            f"model '{name}': {error}. Keys or files of its processor are missing or damaged "
            "(processor_config.json, preprocessor_config.json): get them again"
        ) from error
