"""Convert requests of lmms-eval into chat turns and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.chat import Chat, user_turn
from zoo_exp.tasks.images import eight_bits

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class ChatRequest(Chat):
    """One prompt of lmms-eval.

    Attributes:
        name: of the sample; it seeds stochastic selectors.
    """

    name: str


def from_messages(messages: Sequence[Mapping[str, Any]], name: str) -> ChatRequest:
    """A request from a task's `doc_to_messages`.

    Raises:
        InvalidValueError: a part that is neither text nor an image.
    """
    turns: list[dict[str, Any]] = []
    images: list[Image] = []
    for message in messages:
        content = message["content"]
        parts: list[str | Image] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                parts.append(part["text"])
            elif part["type"] == "image":
                parts.append(_image(part["url"], name))
            else:
                raise InvalidValueError(
                    f"sample {name}: visual tokens of a {part['type']} cannot be pruned, only those of images"
                )
        turn = user_turn(parts)
        turns.append({"role": message["role"], "content": turn.messages[0]["content"]})
        images += turn.images
    return ChatRequest(turns, images, name)


def from_context(context: str, visuals: Sequence[Any] | None, name: str) -> ChatRequest:
    """A request from a text and its images.

    Images replace the marks `<image>` in the text, in order; images without a mark come first. A mark without an image
    is dropped, because the processor would write placeholders for an image that does not exist.

    Raises:
        InvalidValueError: a visual that is not an image.
    """
    images = [_image(value, name) for value in visuals or ()]
    texts = [text.strip() for text in context.split(IMAGE_MARK)] if IMAGE_MARK in context else [context]
    unmarked = len(images) - min(len(texts) - 1, len(images))
    content: list[str | Image] = [*images[:unmarked]]
    marked = iter(images[unmarked:])
    for text in texts:
        content += [text] if text else []
        image = next(marked, None)
        content += [] if image is None else [image]
    turn = user_turn(content)
    return ChatRequest(turn.messages, turn.images, name)


def _image(value: Any, name: str) -> "Image":
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise InvalidValueError(
            f"sample {name}: expected an image, got {type(value).__name__}; videos and audio are not supported"
        )
    return eight_bits(value).convert("RGB")
