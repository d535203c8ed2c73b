"""What turns pruned prompts into token ids: `transformers` in this process, or another engine.

`answering.generate` selects and prunes, and then calls one `Generator`. `HfGenerator` is the default; the generator of
vLLM is in `zoo_exp.serving`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from zoo_exp.models.logits_check import LogitsCheck
from zoo_exp.models.prompt import PrunedPrompt, generate_pruned
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerSelector

OnTokens = Callable[[int, list[int]], object]
"""Called with a row of the batch and its new token ids, as they are generated; an exception ends the generation."""


class Generator(Protocol):
    """Generates responses to pruned prompts.

    Attributes:
        name: engine and version, such as `vllm 0.32.0`.
        stages: whether the duration of a batch is that of its prefill and decoding, one batch after the other. An
            engine with continuous batching has no such stages: requests per second describe it.
    """

    name: str
    stages: bool

    def check(self, selector: Selector | LayerSelector, positions: str) -> None:
        """Refuse a selector or a position policy (`contiguous`, `original`) that the engine cannot run.

        Raises:
            InvalidValueError: the message gives the reason.
        """

    def generate(
        self,
        prompt: PrunedPrompt,
        images: Sequence[Sequence[int]],
        names: Sequence[str],
        *,
        on_tokens: OnTokens | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate responses to a batch.

        Args:
            prompt: pruned prompts, padded on the left.
            images: by row, the number of kept visual tokens of each image, in the order of the prompt.
            names: one name per row, for messages.
            on_tokens: receives the ids of every row as they are generated.
            **options: arguments of `transformers`' `generate`, at least `max_new_tokens`; an engine refuses options
                that it does not have.

        Returns:
            Only the new ids [B, T], with the end-of-sequence token, padded on the right.

        Raises:
            InvalidValueError: a prompt or an option that the engine does not take, or an answer that is not valid.
        """

    def close(self) -> None:
        """Release the engine; calling it again does nothing."""


class HfGenerator:
    """Generates with `transformers` in this process.

    Args:
        model: the Hugging Face model.
    """

    name = "transformers"
    stages = True

    def __init__(self, model: Any) -> None:
        self.model = model

    def check(self, selector: Selector | LayerSelector, positions: str) -> None:
        """Every selector and position policy is allowed."""

    def generate(
        self,
        prompt: PrunedPrompt,
        images: Sequence[Sequence[int]],
        names: Sequence[str],
        *,
        on_tokens: OnTokens | None = None,
        **options: Any,
    ) -> Tensor:
        """See `Generator.generate`; accepts all options of `generate`."""
        watched = Watched(self.model, on_tokens)
        ids = generate_pruned(self.model, prompt, **watched.options(options))
        watched.refuse(names)
        return ids

    def close(self) -> None:
        """Nothing to release."""


class Watched:
    """Checks the logits of one call of `transformers`' `generate` and passes its tokens on.

    Args:
        model: the Hugging Face model.
        on_tokens: receives the new ids; None if nobody reads them before the end.
    """

    def __init__(self, model: Any, on_tokens: OnTokens | None = None) -> None:
        self._logits = LogitsCheck()
        self._streamer = None if on_tokens is None else _Streamer(end_ids(model), on_tokens)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments of `generate`, and those of this check."""
        processors = [*given.get("logits_processor", ()), self._logits]
        streamer = {} if self._streamer is None else {"streamer": self._streamer}
        return {**given, "logits_processor": processors, **streamer}

    def refuse(self, names: Sequence[str]) -> None:
        """Raise an error if a row had NaN logits.

        Raises:
            InvalidValueError: NaN logits; the message names the first row.
        """
        self._logits.refuse(names)


class _Streamer:
    """What `generate` calls with the ids of the prompts, and then with one id per row and step."""

    def __init__(self, ends: Collection[int], on_tokens: OnTokens) -> None:
        self._ends, self._on_tokens = ends, on_tokens
        self._ended: set[int] = set()
        self._started = False

    def put(self, value: Tensor) -> None:
        """Pass on the new ids [B] of the rows that have not ended."""
        if not self._started:  # the first call has the ids of the prompts
            self._started = True
            return
        for row, token in enumerate(value.flatten().tolist()):
            if row not in self._ended:
                self._on_tokens(row, [token])
                if token in self._ends:
                    self._ended.add(row)

    def end(self) -> None:
        """Nothing is left: every id was passed on by `put`."""


def end_ids(model: Any) -> list[int]:
    """End-of-sequence tokens of a model; empty if it has none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return []
    return list(ends) if isinstance(ends, list) else [ends]
