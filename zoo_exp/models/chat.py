"""From chat turns to model inputs: the chat template, the processor and the transfer to the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Chat:
    """One prompt before the processor.

    Attributes:
        messages: chat turns for the processor's template; `{"type": "image"}` marks the place of an image.
        images: the images in the order of their places.
    """

    messages: list[dict[str, Any]]
    images: "list[Image]"


def user_turn(content: "Sequence[str | Image]") -> Chat:
    """A chat of one user turn that holds texts and images in the given order."""
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in content
    ]
    return Chat([{"role": "user", "content": parts}], [part for part in content if not isinstance(part, str)])


def chat_inputs(processor: Any, chats: Sequence[Chat]) -> dict[str, Any]:
    """The processor's tensors for a batch: `input_ids` [B, L], `attention_mask`, `pixel_values` ..."""
    texts = [processor.apply_chat_template(chat.messages, add_generation_prompt=True) for chat in chats]
    images = [image for chat in chats for image in chat.images]
    return dict(processor(text=texts, images=images or None, padding=True, return_tensors="pt"))


def to_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same inputs with every tensor on `device`."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in inputs.items()}
