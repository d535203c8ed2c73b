"""Answers requests with a model: images, prompt, one vision pass, selection, generation, text.

Everything goes through `models/answering.py`, as in `run` and `ask`: the same prompt gives the same tokens.
"""

import copy
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo_exp.config.experiment import Arm
from zoo_exp.errors import ZooExpError
from zoo_exp.models.answering import Ratings, generate
from zoo_exp.models.applicability import why_not
from zoo_exp.models.chat import Chat, chat_inputs, to_device
from zoo_exp.models.encoded_batch import EncodedBatch
from zoo_exp.models.generators import Generator, end_ids
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt
from zoo_exp.selectors.layer.base import LayerSelector
from zoo_exp.serving.chat_request import ChatRequest
from zoo_exp.serving.http_errors import invalid, refused
from zoo_exp.serving.text_stream import TextStream
from zoo_exp.serving.worker import Failed, Finished, Job, Piece, failure
from zoo_exp.tasks.images import decode_image

NAME = "serve"
"""Name of the prompt in the seeds of stochastic selectors: the same request gives the same response."""


@dataclass(frozen=True)
class Task:
    """The work of a `Job`.

    Attributes:
        request: what the client sent.
        arm: its selector and budget.
        seed: of stochastic selectors.
    """

    request: ChatRequest
    arm: Arm
    seed: int

    @property
    def group(self) -> tuple[object, ...]:
        """Tasks of equal groups can be answered as one batch."""
        return self.arm.id, self.seed, bool(self.request.images)


class _Enough(Exception):
    """Every row of the batch has ended before the model would end it; never leaves this module."""


@dataclass
class _Row:
    """One request while it is answered."""

    job: Job
    chat: Chat
    text: TextStream
    began: float
    limit: int = 0
    prompt_tokens: int = 0
    kept: int = 0
    first: float = 0.0
    reason: str = ""
    early: bool = False
    """It ended for a reason that the model does not know, such as a stop text."""
    ended: bool = False
    """The client got the end of its response."""
    milliseconds: dict[str, float] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What is asked for."""
        task: Task = self.job.work
        return task

    @property
    def over(self) -> bool:
        """Whether no more tokens are needed."""
        return bool(self.reason) or self.job.cancelled

    def push(self, ids: Sequence[int], ends: Sequence[int], longest: int) -> None:
        """Take tokens, up to the end of the response."""
        self.first = self.first or time.perf_counter()
        request = self.task.request
        for token in ids:
            if self.over:
                return
            text = self.text.push([token]) if request.stream or request.stop else self.text.hold(token)
            if text and request.stream:
                self.job.send(Piece(text))
            if self.text.stopped:
                self.reason, self.early = "stop", True
            elif token in ends:
                self.reason = "stop"
            elif len(self.text.ids) >= self.limit:
                self.reason, self.early = "length", self.limit < longest

    def fail(self, event: Failed) -> None:
        """Send an error."""
        self.ended = True
        self.job.send(event)


class Answerer:
    """The function of the `Worker`.

    Args:
        loaded: the model.
        generator: the engine that generates.
        max_tokens: most generated tokens of requests that give no number.
        longest: longest prompt with its response; None for the checkpoint's own.

    Attributes:
        failed_in_a_row: responses that failed through no fault of the request since the last one that did not.
    """

    def __init__(
        self, loaded: LoadedModel, generator: Generator, max_tokens: int, longest: int | None = None
    ) -> None:
        self._loaded, self._generator, self._max_tokens = loaded, generator, max_tokens
        self._turn = threading.Lock()  # vision encoder, selectors and processor serve one call at a time
        # Of its own: a tokenizer refuses to decode while another thread sets its padding.
        self._tokenizer = copy.deepcopy(loaded.processor.tokenizer)
        self.failed_in_a_row = 0
        self._device = next(loaded.model.parameters()).device
        self._ends = end_ids(loaded.model)
        text = loaded.model.config.get_text_config()
        self._context = longest or int(getattr(text, "max_position_embeddings", None) or 2**31)

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Answer jobs of one group; each gets `Finished` or `Failed`, unless nobody waits for it."""
        rows = []
        for job in jobs:
            try:
                if not job.cancelled:
                    rows.append(self._open(job))
            except Exception as error:
                job.send(failure(error, "a request"))
        with torch.inference_mode():
            self._answer(rows)

    def _open(self, job: Job) -> _Row:
        """Decode the images of a request."""
        began = time.perf_counter()
        request = job.work.request
        try:
            images = [
                decode_image(image, f"image {number + 1}") for number, image in enumerate(request.images)
            ]
        except ZooExpError as error:
            raise refused(error, "messages", "invalid_image") from error
        return _Row(job, Chat(request.messages, images), TextStream(self._decode, request.stop), began)

    def _answer(self, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        try:
            with self._turn:
                self._generate(rows)
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError" and self._device.type == "cuda":
                torch.cuda.empty_cache()
            left = [row for row in rows if not row.ended]
            if len(rows) > 1 and not any(row.text.ids for row in left):
                for row in left:  # what one request did wrong must not fail the others
                    self._answer([row])
            else:
                for row in left:
                    event = failure(error, "a request")
                    # Counted first: who has received the error may ask for the server's health at once.
                    self.failed_in_a_row += event.error.status >= 500
                    row.fail(event)

    def _generate(self, rows: Sequence[_Row]) -> None:
        arm, seed = rows[0].task.arm, rows[0].task.seed
        selector = arm.build()
        layered = isinstance(selector, LayerSelector)
        batch = self._encode(rows, selector, arm)
        for tokens in batch.tokens:
            problem = why_not(selector, arm.budget, tokens, len(self._loaded.adapter.layers))
            if problem is not None:
                raise invalid(problem, "budget", "invalid_budget")
        if layered:  # such a selector prunes inside the model: every visual token enters it
            whole = batch.inputs["attention_mask"].sum(dim=1).tolist()
            self._begin(rows, whole, [sum(t.count for t in tokens) for tokens in batch.tokens])
        relay = _Relay(self._generator, rows, self._begin, self._turn)

        def take(number: int, ids: list[int]) -> None:
            rows[number].push(ids, self._ends, max(row.limit for row in rows))
            if all(row.over for row in rows) and any(row.early or row.job.cancelled for row in rows):
                raise _Enough

        started, select_ms = time.perf_counter(), 0.0
        layer_tokens: list[float | None] = [None] * len(rows)
        try:
            generated = generate(
                self._loaded,
                batch,
                selector,
                arm.budget,
                [f"{NAME}/{arm.seed_index}"] * len(rows),
                seed=seed,
                positions=arm.positions,
                ratings=Ratings(self._synchronise),
                generator=relay,
                on_tokens=take,
                max_new_tokens=max(1, *(row.limit for row in rows)) if layered else self._max_tokens,
                do_sample=False,
            )
            select_ms = generated.selected.milliseconds
            if generated.layers is not None:
                layer_tokens = [sum(counts) / len(counts) for counts in generated.layers.counts]
        except _Enough:  # of a layer selector; the relay catches it for others
            pass
        finished = time.perf_counter()
        for row, tokens, mean in zip(rows, batch.tokens, layer_tokens, strict=True):
            if not row.job.cancelled:
                begun = relay.started or started
                row.milliseconds |= {
                    "select": select_ms,
                    "prefill": ((row.first or finished) - begun) * 1e3,
                    "generate": (finished - begun) * 1e3,
                }
                self._finish(row, sum(t.count for t in tokens), mean)

    def _encode(self, rows: Sequence[_Row], selector: Any, arm: Arm) -> EncodedBatch:
        """Processor and vision pass; what the model cannot give to the selector is the request's error."""
        try:
            inputs = chat_inputs(self._loaded.processor, [row.chat for row in rows])
        except ZooExpError as error:
            raise refused(error, "messages", "invalid_prompt") from error
        inputs = to_device(inputs, self._device)
        started = time.perf_counter()
        try:
            batch = EncodedBatch(inputs, self._loaded.adapter.encode(inputs, selector.needs))
        except ZooExpError as error:
            raise refused(error, "selector", "invalid_selector") from error
        self._synchronise()
        finished = time.perf_counter()
        for row in rows:
            row.milliseconds["prepare"] = (started - row.began) * 1e3
            row.milliseconds["vision"] = (finished - started) * 1e3
        return batch

    def _begin(self, rows: Sequence[_Row], lengths: Sequence[int], kept: Sequence[int]) -> None:
        """Note what enters the language model, and how many tokens each response may have.

        Raises:
            ApiError: prompt and response do not fit into the model's context.
        """
        for row, length, visual in zip(rows, lengths, kept, strict=True):
            wanted = row.task.request.max_tokens
            room = self._context - length
            if room < (wanted or 1):
                asked = f", and max_tokens={wanted}" if wanted else ""
                message = f"the prompt has {length} tokens ({visual} of them visual){asked}"
                raise invalid(
                    f"{message}: this model takes {self._context} together",
                    "messages",
                    "context_length_exceeded",
                )
            row.limit = wanted or min(self._max_tokens, room)
            row.prompt_tokens, row.kept = length, visual

    def _finish(self, row: _Row, visual: int, layer_tokens: float | None) -> None:
        now = time.perf_counter()
        times = {"queue": (row.job.started - row.job.arrived) * 1e3, **row.milliseconds}
        usage: dict[str, Any] = {
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": len(row.text.ids),
            "total_tokens": row.prompt_tokens + len(row.text.ids),
            "kept_tokens": row.kept,
            "visual_tokens": visual,
            **({} if layer_tokens is None else {"layer_tokens": round(layer_tokens, 1)}),
            "milliseconds": {
                **{name: round(value, 2) for name, value in times.items()},
                "total": round((now - row.job.arrived) * 1e3, 2),
            },
        }
        row.ended = True
        self.failed_in_a_row = 0
        rest = row.text.finish()
        row.job.send(Finished(row.text.text, rest, row.reason or "length", usage))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Relay:
    """The engine, which also ends when no row needs more tokens, and notes what enters the language model.

    Another request may use the vision encoder while an engine of its own generates.
    """

    def __init__(self, inner: Generator, rows: Sequence[_Row], begin: Any, turn: threading.Lock) -> None:
        self._inner, self._rows, self._begin, self._turn = inner, rows, begin, turn
        self.name, self.stages = inner.name, inner.stages
        self.started = 0.0

    def check(self, selector: Any, positions: str) -> None:
        """As the engine."""
        self._inner.check(selector, positions)

    def generate(
        self,
        prompt: PrunedPrompt,
        images: Sequence[Sequence[int]],
        names: Sequence[str],
        *,
        on_tokens: Any = None,
        **options: Any,
    ) -> Tensor:
        """As the engine, with the number of tokens that the requests ask for."""
        self.started = time.perf_counter()
        self._begin(self._rows, prompt.attention_mask.sum(dim=1).tolist(), prompt.kept_tokens)
        options["max_new_tokens"] = max(row.limit for row in self._rows)
        self._turn.release()
        try:
            return self._inner.generate(prompt, images, names, on_tokens=on_tokens, **options)
        except _Enough:
            ids = [torch.tensor(row.text.ids, dtype=torch.int64) for row in self._rows]
            return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        finally:
            self._turn.acquire()

    def close(self) -> None:
        """Belongs to the engine's owner."""
