"""From chat turns to model inputs: the chat template, the processor and the transfer to the device.

Texts come from data sets and templates from checkpoints; both are untrusted. A text never acts as a placeholder of an
image (`as_text`), and a template that does not end is refused before it is used (`check_template`).
"""

import os
import resource
import select
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError, ZooExpError

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE_SECONDS = 10.0
"""Time that a chat template has for one short question; usual ones take a millisecond."""
TEMPLATE_MEMORY = 2**30
"""Bytes that it may take for that."""
TEMPLATE_LENGTH = 1_000_000
"""Characters that it may write for that."""
DONE = "done "
"""Start of what a child process says that came to its end."""


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
    """The processor's tensors for a batch: `input_ids` [B, L], `attention_mask`, `pixel_values` ...

    Raises:
        InvalidValueError: the checkpoint's chat template or processor fails on these chats.
    """
    images = [image for chat in chats for image in chat.images]
    try:
        texts = [_render(processor, chat.messages) for chat in chats]
        return dict(processor(text=texts, images=images or None, padding=True, return_tensors="pt"))
    except ZooExpError:
        raise
    except Exception as error:  # jinja2, tokenizers and image processors have a family of errors each
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InvalidValueError(
            f"the model's processor or chat template cannot read the prompt: {reason}"
        ) from error


def as_text(processor: Any, text: str) -> str:
    """A text in which no placeholder of an image, video or sound stands: `<image>` becomes `< image>`.

    The processor and the tokenizer know placeholders by their text alone. A question about the HTML tag would therefore
    ask for an image that is not there.

    >>> from types import SimpleNamespace
    >>> as_text(SimpleNamespace(image_token="<image>"), "Is there an <image> tag?")
    'Is there an < image> tag?'
    """
    for mark in placeholders(processor):
        text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


def placeholders(processor: Any) -> list[str]:
    """The texts that a processor replaces by the tokens of an image, video or sound; longer ones first."""
    named = vars(processor).items()
    marks = {
        value
        for name, value in named
        if name.endswith(("_token", "_tag")) and isinstance(value, str) and len(value.strip()) > 1
    }
    return sorted(marks, key=lambda mark: (-len(mark), mark))


def check_template(processor: Any, name: str) -> None:
    """Refuse a chat template that does not end or fills the memory on a short question.

    It is rendered once in a process of its own, with limits of time and memory, because nothing else ends
    `{{ 'x' * 9999999999 }}`. A template that fails is refused by `chat_inputs`, with its message.

    Args:
        processor: of the checkpoint.
        name: of the model, for the error.

    Raises:
        InvalidValueError: the template exceeds a limit.
    """
    if getattr(processor, "chat_template", None) is None:
        return
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}

    def render() -> str:
        try:
            length = len(processor.apply_chat_template([turn], add_generation_prompt=True))
        except MemoryError:
            return f"it takes more than {TEMPLATE_MEMORY >> 20} MiB"
        except Exception:
            return ""
        return f"it writes {length:,} characters" if length > TEMPLATE_LENGTH else ""

    problem = _in_child(render)
    if problem:
        raise InvalidValueError(
            f"model '{name}': its chat template is unusable: {problem} for a question of four words. Get the "
            "checkpoint again, from a source that you trust"
        )


def to_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same inputs with every tensor on `device`."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in inputs.items()}


def _render(processor: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of one chat, with its texts escaped."""
    turns = [{**turn, "content": _escaped(processor, turn["content"])} for turn in messages]
    text: str = processor.apply_chat_template(turns, add_generation_prompt=True)
    return text


def _escaped(processor: Any, content: Any) -> Any:
    if isinstance(content, str):
        return as_text(processor, content)
    return [
        {**part, "text": as_text(processor, part["text"])} if part.get("type") == "text" else part
        for part in content
    ]


def _in_child(job: Callable[[], str]) -> str:
    """What a function returns in a process that may take `TEMPLATE_SECONDS` and `TEMPLATE_MEMORY`."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns of threads; the child only renders and leaves
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            with suppress(OSError, ValueError):
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + TEMPLATE_MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            os.write(writer, f"{DONE}{job()}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], TEMPLATE_SECONDS)[0]:
            return f"it does not end in {TEMPLATE_SECONDS:g} s"
        said = os.read(reader, 1000).decode()
        return said.removeprefix(DONE) if said.startswith(DONE) else "it ends the process"
    finally:
        os.close(reader)
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
        with suppress(OSError):
            os.waitpid(child, 0)
