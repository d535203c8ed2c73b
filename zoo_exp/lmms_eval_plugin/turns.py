"""From what lmms-eval asks to chat turns and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        messages: chat turns for a processor's template; the place of a picture is `{"type": "image"}`.
        images: the pictures in the order of their places.
        name: of the sample: what seeds the draws of selectors that draw.
    """

    messages: list[dict[str, Any]]
    images: "list[Image]"
    name: str


def from_messages(messages: Sequence[Mapping[str, Any]], name: str) -> Ask:
    """An `Ask` from a task's `doc_to_messages`.

    Raises:
        InvalidValueError: a part that is neither text nor an image.
    """
    turns: list[dict[str, Any]] = []
    images: list[Image] = []
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                parts.append({"type": "image"})
                images.append(_picture(part["url"], name))
            else:
                raise InvalidValueError(
                    f"sample {name}: visual tokens of a {part['type']} cannot be pruned, only those of images"
                )
        turns.append({"role": message["role"], "content": parts})
    return Ask(turns, images, name)


def from_context(context: str, visuals: Sequence[Any] | None, name: str) -> Ask:
    """An `Ask` from a text and its pictures.

    The pictures take the places that `<image>` marks in the text, in order; those without a mark come first.
    A mark without a picture is dropped, as it would become visual tokens that there are not.

    Raises:
        InvalidValueError: a visual that is no image.
    """
    images = [_picture(value, name) for value in visuals or ()]
    texts = [text.strip() for text in context.split(IMAGE_MARK)] if IMAGE_MARK in context else [context]
    marked = min(len(texts) - 1, len(images))
    parts: list[dict[str, Any]] = [{"type": "image"}] * (len(images) - marked)
    for number, text in enumerate(texts):
        if text:
            parts.append({"type": "text", "text": text})
        if number < marked:
            parts.append({"type": "image"})
    return Ask([{"role": "user", "content": parts}], images, name)


def _picture(value: Any, name: str) -> "Image":
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise InvalidValueError(
            f"sample {name}: expected an image, got {type(value).__name__}; videos and sounds are not supported"
        )
    return value.convert("RGB")
