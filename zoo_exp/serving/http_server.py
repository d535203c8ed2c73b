"""The server: model, worker, application and uvicorn in one object."""

import io
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from PIL import Image

from zoo_exp.addresses import is_loopback, url
from zoo_exp.config.experiment import Arm, Experiment
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.generators import Generator
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import check_positions
from zoo_exp.serving.answerer import Answerer, Task
from zoo_exp.serving.arm_menu import ArmMenu
from zoo_exp.serving.chat_request import ChatRequest, Limits
from zoo_exp.serving.http_app import Service, application
from zoo_exp.serving.serve_settings import ServeSettings
from zoo_exp.serving.worker import Event, Failed, Job, Worker

TOGETHER = 16
"""Requests that an engine with continuous batching answers at the same time by default."""
GRACE = 10
"""Seconds that a response has after the signal to stop."""
PROBE = (336, 336)
"""Size of the image of the first pass."""


class HttpServer:
    """A server that listens with `run`.

    The model answers a made-up question first: the first pass of a process allocates memory and picks kernels, and a
    selector that this model cannot run is refused before the server listens.

    Args:
        loaded: the model.
        generator: the engine that generates.
        experiment: its model, seed and number of visual tokens.
        arm: of requests that name none.
        settings: of the server.
        listening: a bound socket.
        say: takes one line per request.

    Attributes:
        port: in use.

    Raises:
        InvalidValueError: a model without a processor, or an arm that the model or the engine cannot run.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        generator: Generator,
        experiment: Experiment,
        arm: Arm,
        settings: ServeSettings,
        listening: socket.socket,
        say: Callable[[str], object],
    ) -> None:
        if loaded.processor is None:
            raise InvalidValueError(
                f"model '{loaded.name}' has no processor: nothing turns a request into its inputs"
            )
        self.settings, self.generator, self._socket = settings, generator, listening
        self.port = int(listening.getsockname()[1])

        def check(selector: Any, positions: str | None) -> None:
            generator.check(selector, check_positions(positions, loaded.adapter))

        menu = ArmMenu(experiment.model, arm, check)
        answerer = Answerer(loaded, generator, settings.max_tokens, experiment.engine.max_model_len)
        _try(answerer, arm)
        together = settings.batch or (1 if generator.stages else TOGETHER)
        # An engine with continuous batching takes requests one by one, as they come; transformers takes a batch.
        self.worker = Worker(answerer, *((together, 1) if generator.stages else (1, together)))
        self.service = Service(
            settings.name or experiment.model.name,
            self.worker,
            menu,
            Limits(settings.images, settings.max_tokens, settings.root),
            settings.body_mb * 2**20,
            settings.seconds,
            settings.queue,
            experiment.seed,
            settings.api_key,
            {"created": int(time.time()), "engine": generator.name, "arm": arm.row, "selectors": menu.names},
            say,
            lambda: answerer.failed_in_a_row,
        )
        self.summary = f"{arm.row}, {generator.name}"
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                application(self.service),
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE,
            ),
            self.worker,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the log line of the request says it

    @property
    def address(self) -> str:
        """The base URL for clients."""
        return f"{url(self.settings.host, self.port)}/v1"

    @property
    def warning(self) -> str:
        """What to know about an address that others reach; empty for loopback."""
        if is_loopback(self.settings.host):
            return ""
        return (
            f"host={self.settings.host}: requests and the key are not encrypted; put a proxy with TLS in front, or "
            "forward the port with ssh"
        )

    def run(self) -> None:
        """Serve until `stop`, SIGINT or SIGTERM."""
        self.worker.start()
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self.worker.close()
            self.worker.join(GRACE)
            self._socket.close()
            self.generator.close()

    @property
    def listens(self) -> bool:
        """Whether requests are taken."""
        return self._uvicorn.started

    def stop(self) -> None:
        """End `run` in another thread: waiting requests are refused, the running one is finished."""
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Refuses the waiting requests when it stops, so that they need not wait for the running one."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, then wait for the responses that are on their way."""
        self._worker.close()
        await super().shutdown(sockets)


def _try(answerer: Answerer, arm: Arm) -> None:
    """Answer a made-up question about a grey image, with one token.

    Raises:
        InvalidValueError: the arm cannot run on this model.
    """
    image = io.BytesIO()
    Image.new("RGB", PROBE, (127, 127, 127)).save(image, format="PNG")
    parts = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    request = ChatRequest([{"role": "user", "content": parts}], (image.getvalue(),), max_tokens=1)
    events: list[Event] = []
    answerer([Job(Task(request, arm, 0), None, events.append)])
    for event in events:
        if isinstance(event, Failed):
            raise InvalidValueError(f"{arm.row}: {event.error.message}")
