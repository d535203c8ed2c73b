"""Errors of the HTTP interface, in the shape that clients of OpenAI's interface read."""

import json
from collections.abc import Mapping
from typing import Any

from zoo_exp.errors import ZooExpError

NO_RETRY = {"x-should-retry": "false"}
"""Keeps the `openai` client from sending a request again that would fail again."""
LONGEST = 200
"""Characters of a value that a message repeats."""


class ApiError(Exception):
    """A request that is not answered, and why.

    Args:
        status: HTTP status.
        message: what was given, what is allowed, what to send.
        code: a word for programs, such as `invalid_image`.
        param: the field of the request that is wrong.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # Values of the request may have characters that no response can hold, such as half of a surrogate pair.
        message = "".join(c if c.isprintable() else " " for c in message)
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """The `type` of the error."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def content(self) -> dict[str, Any]:
        """The body of the response.

        >>> ApiError(404, "no such path", "not_found").content()["error"]["type"]
        'invalid_request_error'
        """
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A field of the request that is not allowed."""
    return ApiError(400, message, code, param)


def refused(error: ZooExpError, param: str, code: str = "invalid_value") -> ApiError:
    """One of this package's errors about a field of the request; the message is the error's own."""
    return ApiError(400, str(error), code, param)


def short(value: Any) -> str:
    """A value of the request in a message."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
