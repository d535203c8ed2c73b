"""Adapters by the model type that stands in a checkpoint's configuration."""

from importlib import import_module
from typing import Any

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.models.base import VLMAdapter

_ADAPTERS = {
    "llava": "zoo_exp.models.llava:LlavaAdapter",
    "llava_next": "zoo_exp.models.llava_next:LlavaNextAdapter",
    "qwen2_5_vl": "zoo_exp.models.qwen2_5_vl:QwenAdapter",
}


def families() -> list[str]:
    """Model types that have an adapter."""
    return sorted(_ADAPTERS)


def check_family(model_type: str) -> None:
    """Refuse a model type without an adapter.

    Raises:
        UnknownNameError: it names the supported ones.
    """
    if model_type not in _ADAPTERS:
        raise UnknownNameError(
            "model type", model_type, families(), "It stands in config.json as model_type."
        )


def adapter_for(model: Any, processor: Any = None) -> VLMAdapter:
    """The adapter of a Hugging Face model.

    Args:
        model: a model with a language-model head.
        processor: its processor, if there is one; selectors that look at the question's words use it.

    Raises:
        UnknownNameError: no adapter for the model's type.
        InvalidValueError: a model without its language-model head.
    """
    config = getattr(model, "config", None)
    check_family(str(getattr(config, "model_type", type(model).__name__)))
    if getattr(getattr(model, "model", None), "language_model", None) is None:
        raise InvalidValueError(
            f"{type(model).__name__} is only a part of a model: give the one that has generate, such as "
            "LlavaForConditionalGeneration"
        )
    module, _, name = _ADAPTERS[config.model_type].partition(":")  # type: ignore[union-attr]
    adapter: VLMAdapter = getattr(import_module(module), name)(model, processor)
    return adapter
