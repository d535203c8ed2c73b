"""Adapters by the model type that stands in a checkpoint's configuration."""

from importlib import import_module
from typing import Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.generic_support import check_type

_ADAPTERS = {
    "llava": "zoo_exp.models.llava:LlavaAdapter",
    "llava_next": "zoo_exp.models.llava_next:LlavaNextAdapter",
    "qwen2_5_vl": "zoo_exp.models.qwen2_5_vl:QwenAdapter",
}


def families() -> list[str]:
    """Model types that have an adapter."""
    return sorted(_ADAPTERS)


def check_family(model_type: str) -> None:
    """Refuse a model type that neither has an adapter nor fits the generic one.

    Raises:
        InvalidValueError: it says what the model type is.
    """
    if model_type not in _ADAPTERS:
        check_type(model_type)


def adapter_for(model: Any, processor: Any = None) -> VLMAdapter:
    """The adapter of a Hugging Face model.

    Args:
        model: a model with a language-model head.
        processor: its processor, if there is one; selectors that look at the question's words use it.

    Raises:
        InvalidValueError: a model without its language-model head, or one that cannot be pruned.
    """
    config = getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", type(model).__name__))
    if model_type not in _ADAPTERS:
        from zoo_exp.models.generic import GenericAdapter

        return GenericAdapter(model, processor)
    if getattr(getattr(model, "model", None), "language_model", None) is None:
        raise InvalidValueError(
            f"{type(model).__name__} is only a part of a model: give the one that has generate, such as "
            "LlavaForConditionalGeneration"
        )
    module, _, name = _ADAPTERS[model_type].partition(":")
    adapter: VLMAdapter = getattr(import_module(module), name)(model, processor)
    return adapter
