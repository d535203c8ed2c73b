"""Are the logits numbers? A model with damaged weights must not answer."""

from collections.abc import Sequence

from torch import Tensor

from zoo_exp.errors import InvalidValueError


class LogitsCheck:
    """A logits processor that changes nothing and remembers the rows that were NaN.

    NaN has no maximum: greedy decoding would take token 0, and record its text as the response. The check costs
    nothing that waits for a GPU: it is read once, at the end of generation.
    """

    def __init__(self) -> None:
        self._nan: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the logits [B, V] of one step."""
        found = scores.isnan().any(dim=-1)
        self._nan = found if self._nan is None or self._nan.shape != found.shape else self._nan | found
        return scores

    def refuse(self, names: Sequence[str]) -> None:
        """Raise if a row was NaN.

        Raises:
            InvalidValueError: names the first such row.
        """
        rows = [] if self._nan is None else self._nan.nonzero().flatten().tolist()
        if rows:
            first = names[rows[0]] if len(names) == len(self._nan) else f"row {rows[0]}"  # type: ignore[arg-type]
            raise InvalidValueError(
                f"{first}: the model's logits are NaN, so it has no answer: its weights are damaged, or its values are "
                "too large for the dtype. Get the checkpoint again, or try dtype float32"
            )
