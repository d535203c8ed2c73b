"""The HTTP interface: chat completions, the list of models, and health, as an ASGI application."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from zoo_exp.serving.answerer import Task
from zoo_exp.serving.arm_menu import ArmMenu
from zoo_exp.serving.chat_answers import Chunks, completion, failed
from zoo_exp.serving.chat_request import ChatRequest, Limits, parse, wrong_model
from zoo_exp.serving.guard import ClientGone, Guard, response_to
from zoo_exp.serving.http_errors import ApiError
from zoo_exp.serving.worker import Event, Failed, Finished, Job, Piece, Worker

BODY_SECONDS = 60.0
"""Time that a client has to send its request."""
DRAIN_BYTES, DRAIN_SECONDS = 128 * 2**20, 5.0
"""What is read, and thrown away, of a body that is refused: a client that is still sending does not see the reason."""
FAILING = 3
"""Responses that fail in a row until the server calls itself failing."""
T = TypeVar("T")


@dataclass
class Service:
    """What the application needs.

    Attributes:
        name: of the model.
        worker: owns the model.
        menu: selectors and budgets.
        limits: of one request.
        body_bytes: most bytes of a request.
        seconds: time limit of a request, from its arrival to the end of its response.
        most_waiting: requests that may wait.
        seed: of stochastic selectors.
        api_key: None for none.
        about: fields of the model in the response of GET /v1/models, besides its id.
        say: takes one line per request.
        failures: number of responses that failed in a row through no fault of their requests.
    """

    name: str
    worker: Worker
    menu: ArmMenu
    limits: Limits
    body_bytes: int
    seconds: float
    most_waiting: int
    seed: int
    api_key: str | None
    about: dict[str, Any]
    say: Callable[[str], object]
    failures: Callable[[], int]
    inside: int = 0
    """Requests between their admission and the end of their response."""

    def admit(self) -> None:
        """Take a place, before the body is read.

        Raises:
            ApiError: 429, every place is taken.
        """
        if self.inside >= self.most_waiting + self.worker.places:
            message = (
                f"the server is busy: {self.most_waiting} requests are waiting already; try again in a second"
            )
            raise ApiError(429, message, "queue_full", headers={"Retry-After": "1"})
        self.inside += 1

    def leave(self) -> None:
        """Give the place back."""
        self.inside -= 1


def application(service: Service) -> Starlette:
    """The ASGI application."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _chat, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route("/v1/models/{name:path}", _model, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, api_key=service.api_key, say=lambda line: service.say(line))],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
    )
    app.state.service = service
    return app


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return response_to(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the router: no such path, or another method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message, code = f"{request.method} is not allowed here: {allowed} is", "method_not_allowed"
    else:
        message = "no such path: POST /v1/chat/completions, GET /v1/models and GET /health exist"
        code = "not_found"
    return response_to(ApiError(error.status_code, message, code, headers=error.headers))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _health(request: Request) -> Response:
    service, worker = _service(request), _service(request).worker
    # A GPU or an engine that has failed for good fails every request: whatever watches the server may restart it.
    state = "stopping" if not worker.alive else "failing" if service.failures() >= FAILING else "ok"
    status = {"status": state, "waiting": worker.waiting, "running": worker.running}
    return JSONResponse(status, 200 if state == "ok" else 503)


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_card(_service(request))]})


async def _model(request: Request) -> Response:
    service, name = _service(request), request.path_params["name"]
    if name != service.name:
        raise wrong_model(name, service.name)
    return JSONResponse(_card(service))


def _card(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "owned_by": "zoo_exp", **service.about}


async def _chat(request: Request) -> Response:
    """Answer one chat."""
    service, state = _service(request), request.scope["state"]
    deadline = asyncio.get_running_loop().time() + service.seconds
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        kind != "application/json"
    ):  # a form of another page can be sent without the browser asking this server
        await _drain(request)
        raise ApiError(415, "send the header Content-Type: application/json", "unsupported_media_type")
    try:
        service.admit()
    except ApiError:
        await _drain(request)
        raise
    state["cleanup"].append(service.leave)
    body = await _body(request, service.body_bytes)
    chat, task = await run_in_threadpool(_task, service, body)
    del body
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

    def send(event: Event) -> None:
        try:
            loop.call_soon_threadsafe(events.put_nowait, event)
        except RuntimeError:  # the loop has ended: the server stopped while this was generated
            job.cancel()

    job = Job(task, task.group, send)
    state["cleanup"].append(lambda: service.worker.cancel(job))
    service.worker.submit(job)

    async def next_event() -> Event:
        try:
            async with asyncio.timeout_at(deadline):
                event = await events.get()
        except TimeoutError:
            event = Failed(_too_slow(service.seconds))
        _note(state, task, event)
        return event

    event = await _unless_gone(request, next_event())
    id_, created = f"chatcmpl-{state['id']}", int(time.time())
    if isinstance(event, Failed):
        raise event.error
    if not chat.stream:
        while not isinstance(event, Finished):
            event = await _unless_gone(request, next_event())
            if isinstance(event, Failed):
                raise event.error
        return JSONResponse(completion(id_, created, service.name, event))
    chunks = Chunks(id_, created, service.name, chat.include_usage)
    return StreamingResponse(
        _stream(chunks, event, next_event, state),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},  # proxies must not collect the chunks
    )


async def _stream(
    chunks: Chunks, event: Event, next_event: Callable[[], Coroutine[Any, Any, Event]], state: dict[str, Any]
) -> AsyncIterator[bytes]:
    state["note"] = state["note"] or "left by the client"  # replaced by the last event
    yield chunks.start()
    while isinstance(event, Piece):
        yield chunks.text(event.text)
        event = await next_event()
    yield chunks.end(event) if isinstance(event, Finished) else failed(event.error)


def _task(service: Service, body: bytes) -> tuple[ChatRequest, Task]:
    chat = parse(body, service.limits)
    if chat.model is not None and chat.model != service.name:
        raise wrong_model(chat.model, service.name)
    arm = service.menu.of(chat)
    return chat, Task(chat, arm, service.seed if chat.seed is None else chat.seed)


async def _unless_gone(request: Request, waiting: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, unless the client closes the connection first.

    Raises:
        ClientGone: it did.
    """
    result, left = asyncio.ensure_future(waiting), asyncio.ensure_future(_closed(request))
    try:
        await asyncio.wait((result, left), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientGone
        return result.result()
    finally:
        result.cancel()
        left.cancel()


async def _closed(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413, too many bytes; 408, it does not come.
        ClientGone: the connection was closed.
    """
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isdecimal() and len(length) < 16 else 0
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if announced <= most:
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        break
    except TimeoutError:
        message = f"the body did not come within {BODY_SECONDS:g} s"
        raise ApiError(408, message, "request_timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ClientGone from None
    if max(announced, size) > most:
        parts.clear()
        await _drain(request)
        message = f"the body has more than {most / 2**20:g} MiB: send smaller or fewer images (serve.body_mb)"
        raise ApiError(413, message, "body_too_large", headers={"Connection": "close"})
    return b"".join(parts)


async def _drain(request: Request) -> None:
    """Read and forget what a client is still sending."""
    size, more = 0, True
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while more and size < DRAIN_BYTES:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass


def _too_slow(seconds: float) -> ApiError:
    return ApiError(
        504,
        f"no response within the time limit of {seconds:g} s: ask for fewer tokens (max_tokens)",
        "timeout",
    )


def _note(state: dict[str, Any], task: Task, event: Event) -> None:
    """Set the log line of a request: numbers and names of this package, without text of the request."""
    if isinstance(event, Finished):
        usage, times = event.usage, event.usage["milliseconds"]
        state["note"] = (
            f"{task.arm.row} images={len(task.request.images)} kept={usage['kept_tokens']}/{usage['visual_tokens']} "
            f"prompt={usage['prompt_tokens']} new={usage['completion_tokens']} queue={times['queue']:.0f} "
            f"select={times['select']:.1f} generate={times['generate']:.0f}"
        )
    elif isinstance(event, Failed):
        state["note"] = f"{task.arm.row} {event.error.code}"
