"""Check for NaN logits, which indicate damaged weights or overflow."""

from collections.abc import Sequence

from torch import Tensor

from zoo_exp.errors import InvalidValueError


class LogitsCheck:
    """A logits processor that records rows with NaN and changes nothing.

    With NaN logits, greedy decoding would select token 0, and its text would be recorded as the response. The check
    does not synchronise a GPU: its result is read once, at the end of generation.
    """

    def __init__(self) -> None:
        self._nan: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Check the logits [B, V] of one step."""
        found = scores.isnan().any(dim=-1)
        self._nan = found if self._nan is None or self._nan.shape != found.shape else self._nan | found
        return scores

    def refuse(self, names: Sequence[str]) -> None:
        """Raise an error if a row had NaN logits.

        Raises:
            InvalidValueError: NaN logits; the message names the first row.
        """
        rows = [] if self._nan is None else self._nan.nonzero().flatten().tolist()
        if rows:
            first = names[rows[0]] if len(names) == len(self._nan) else f"row {rows[0]}"  # type: ignore[arg-type]
            raise InvalidValueError(
                f"{first}: the model's logits are NaN, so it has no answer: its weights are damaged, or its values are "
                "too large for the dtype. Get the checkpoint again, or try dtype float32"
            )
