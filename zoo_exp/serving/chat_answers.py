"""Responses in the shape of OpenAI's interface: a completion, the chunks of a stream, and the list of models."""

import json
from typing import Any

from zoo_exp.serving.http_errors import ApiError
from zoo_exp.serving.worker import Finished

END = b"data: [DONE]\n\n"
"""The end of a stream."""


def completion(id_: str, created: int, model: str, finished: Finished) -> dict[str, Any]:
    """The body of a response without streaming."""
    message = {"role": "assistant", "content": finished.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.reason}
    return {
        "id": id_,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": finished.usage,
    }


class Chunks:
    """The chunks of one stream as bytes of server-sent events.

    Args:
        id_: of the response.
        created: in seconds since 1970.
        model: name of the model.
        with_usage: the client asked for a last chunk with the usage; every other chunk then has `usage: null`.
    """

    def __init__(self, id_: str, created: int, model: str, with_usage: bool) -> None:
        self._frame = {"id": id_, "object": "chat.completion.chunk", "created": created, "model": model}
        self._with_usage = with_usage

    def start(self) -> bytes:
        """The first chunk, with the role."""
        return self._choice({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A chunk with a piece of text."""
        return self._choice({"content": text})

    def end(self, finished: Finished) -> bytes:
        """What is left of the text, the reason of the end, the usage where it was asked for, and the end mark."""
        rest = self.text(finished.rest) if finished.rest else b""
        last = self._choice({}, finished.reason)
        usage = event({**self._frame, "choices": [], "usage": finished.usage}) if self._with_usage else b""
        return rest + last + usage + END

    def _choice(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        more = {"usage": None} if self._with_usage else {}
        return event({**self._frame, "choices": [choice], **more})


def failed(error: ApiError) -> bytes:
    """The end of a stream that failed after its first chunk."""
    return event(error.content())


def event(content: object) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(content)}\n\n".encode()
