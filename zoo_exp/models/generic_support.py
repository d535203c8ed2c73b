"""Which stock models the generic adapter can serve, and the reason for those that it cannot."""

from difflib import get_close_matches
from typing import Any

from zoo_exp.errors import InvalidValueError, UnknownNameError

READ_ON = "docs/models.md lists what works"
_ENCODER_DECODER = (
    "an encoder-decoder: its decoder reads the image by cross-attention, not as tokens of the prompt"
)
_CROSS = "a decoder that reads the image by cross-attention: there are no visual tokens in the prompt to drop"
_QFORMER = "a Q-Former model: its few queries mix the whole image, so that there are no visual tokens to choose among"
_DISCRETE = "a model of discrete image tokens: they are words of its vocabulary, not rows of an encoder"
_PREFIX = "a model that reads the image in front of the prompt, without one placeholder per visual token"
_OTHER = "no model that answers questions about images in a prompt"
REFUSED: dict[str, str] = {
    "blip": _CROSS,
    "blip-2": _QFORMER,
    "chameleon": _DISCRETE,
    "diffusion_gemma": "a diffusion model: it rewrites a whole canvas instead of generating token after token",
    "emu3": _DISCRETE,
    "evolla": _OTHER,
    "florence2": _ENCODER_DECODER,
    "git": _PREFIX,
    "glm_image": _OTHER,
    "idefics": _CROSS,
    "instructblip": _QFORMER,
    "instructblipvideo": _QFORMER,
    "kosmos-2": _PREFIX,
    "kosmos-2.5": _PREFIX,
    "mllama": _CROSS,
    "pi0": _OTHER,
    "pix2struct": _ENCODER_DECODER,
    "pp_formulanet": _ENCODER_DECODER,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "vision-encoder-decoder": _ENCODER_DECODER,
}
"""Model type -> what it is; these have no rows of visual tokens in the prompt that could be dropped."""


def vision_language_types() -> dict[str, str]:
    """Model types that the installed transformers reads as image and text to text -> class of the model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as named

    return dict(named)


def check_type(model_type: str) -> None:
    """Refuse a model type that the generic adapter cannot serve, before anything is loaded.

    Raises:
        InvalidValueError: a type of `transformers` that cannot be pruned; it says what the type is.
        UnknownNameError: no type, but nearly one.
    """
    if model_type in REFUSED:
        raise InvalidValueError(
            f"model type '{model_type}' cannot be pruned: it is {REFUSED[model_type]}. {READ_ON}"
        )
    known = vision_language_types()
    if model_type in known:
        return
    from transformers import CONFIG_MAPPING

    if model_type in CONFIG_MAPPING:
        raise InvalidValueError(
            f"model type '{model_type}' is no vision-language model, or only a part of one: give the whole model, "
            f"whose config.json has a model_type such as llava, qwen3_vl or internvl. {READ_ON}"
        )
    close = [
        n for n in get_close_matches(model_type, known, n=1, cutoff=0.9) if _digits(n) == _digits(model_type)
    ]
    if close:
        raise UnknownNameError("model type", model_type, (), f"Did you mean '{close[0]}'? {READ_ON}")
    raise InvalidValueError(
        f"model type '{model_type}' is no vision-language model that the installed transformers knows: give one whose "
        f"config.json has a model_type such as llava, qwen3_vl or internvl. {READ_ON}"
    )


def _digits(name: str) -> str:
    """The version in a model type: another one is another family, not a slip of the hand."""
    return "".join(c for c in name if c.isdigit())


def find_parts(model: Any) -> tuple[Any, Any]:
    """The module that encodes images, and the decoder that reads its rows.

    Args:
        model: the model that has `generate`.

    Returns:
        The inner model (or the model itself, where it encodes images), and the decoder with its `layers`.

    Raises:
        InvalidValueError: one of them cannot be found.
    """
    name = type(model).__name__
    if not hasattr(model, "generate"):
        raise InvalidValueError(
            f"{name} is only a part of a model: give the one that has generate, such as "
            "LlavaForConditionalGeneration"
        )
    vlm = next(
        (
            m
            for m in (getattr(model, "model", None), model)
            if callable(getattr(m, "get_image_features", None))
        ),
        None,
    )
    if vlm is None:
        raise InvalidValueError(f"{name} cannot be pruned: it has no get_image_features. {READ_ON}")
    inside = (
        ("language_model", "text_model") if vlm is not model else ("language_model", "text_model", "model")
    )
    llm = next((m for m in (getattr(vlm, n, None) for n in inside) if m is not None), None)
    while llm is not None and not hasattr(llm, "layers"):
        llm = getattr(llm, "model", None)
    if llm is None:
        raise InvalidValueError(
            f"{name} cannot be pruned: it is only a part of a model, or has no decoder with layers. {READ_ON}"
        )
    return vlm, llm


def image_token(config: Any) -> int:
    """The placeholder that stands for one visual token.

    Raises:
        InvalidValueError: the configuration has none.
    """
    for name in ("image_token_id", "image_token_index"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    raise InvalidValueError(
        f"model type '{config.model_type}' cannot be pruned: its config.json has no image_token_id, so nothing says "
        f"which tokens of a prompt are visual. {READ_ON}"
    )


def video_token(config: Any, vlm: Any) -> int | None:
    """The placeholder that stands for one visual token of a video; None if the model takes no videos.

    Families whose processors give the frames of a video as images (SmolVLM, InternVL) take none in this sense.
    """
    if not callable(getattr(vlm, "get_video_features", None)):
        return None
    named = (getattr(config, name, None) for name in ("video_token_id", "video_token_index"))
    return next((token for token in named if isinstance(token, int)), None)
