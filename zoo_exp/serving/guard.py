"""The outermost layer of the server: who is let in, and what the log says; no traceback reaches a client."""

import hmac
import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo_exp.addresses import is_loopback, name_and_port
from zoo_exp.serving.http_errors import NO_RETRY, ApiError
from zoo_exp.serving.worker import tell

OPEN = "/health"
"""The path that needs no key: it says nothing about the model."""
GONE = 499
"""Status in the log for a client that left before the end of its response."""
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class ClientGone(Exception):
    """The client has closed the connection: nobody reads a response."""


def response_to(error: ApiError) -> JSONResponse:
    """The response that tells an error."""
    headers = {**(NO_RETRY if error.status in (500, 504) else {}), **error.headers}
    return JSONResponse(error.content(), error.status, headers)


class Guard:
    """Wraps the application.

    A server without a key answers only requests that name this machine in their Host header: otherwise a page elsewhere
    could reach it through a name of its own that resolves to this machine.

    Args:
        app: what it protects.
        api_key: what requests must carry as `Authorization: Bearer KEY`; None for none.
        say: takes one line per request. It has no content of a request, no key, and no query.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, say: Callable[[str], object]) -> None:
        self._app, self._say = app, say
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started, status = time.perf_counter(), 0
        state = scope["state"] = {"id": secrets.token_hex(12), "note": "", "cleanup": []}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = {**HEADERS, "x-request-id": state["id"]}
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in more.items()),
                ]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await response_to(refusal)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except (ClientGone, ConnectionError):
            status = GONE
        except Exception as error:
            tell(error, f"request {state['id']}")
            if not status:
                await response_to(
                    ApiError(
                        500, f"internal error; the server's log has request {state['id']}", "internal_error"
                    )
                )(scope, receive, answer)
        finally:
            for clean in state["cleanup"]:
                clean()
            milliseconds = (time.perf_counter() - started) * 1e3
            path = "".join(c if c.isprintable() else "?" for c in scope["path"][:80])
            note = f" {state['note']}" if state["note"] else ""
            self._say(
                f"{scope['method']} {path} {status or GONE}{note} {milliseconds:.0f} ms id={state['id']}"
            )

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._expected is None:
            name, _ = name_and_port(headers.get("host", ""))
            if not is_loopback(name):
                return ApiError(
                    421,
                    "this server answers requests to this machine only, such as http://127.0.0.1",
                    "wrong_host",
                )
            return None
        if scope["path"] == OPEN:
            return None
        given = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(given, self._expected):
            return None
        return ApiError(
            401,
            "wrong API key, or none: send the header Authorization: Bearer KEY",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
