"""`Submission`: tasks whose reference answers are hidden."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from zoo_exp.tasks.base import Doc, Tally
from zoo_exp.tasks.scale import ANSWERS, Scale


class Submission:
    """Mixin for tasks with hidden reference answers, whose responses are collected for an evaluation server."""

    main_metric: ClassVar[str] = "submission"
    scale: ClassVar[Scale] = ANSWERS
    submission_only: ClassVar[bool] = True

    def reference(self, doc: Doc) -> str:
        """A placeholder."""
        return "(hidden)"

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Every row is one response to submit."""
        return [Tally(str(row["sample_id"]), {"submission": 1.0}, 0.0) for row in rows]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Number of responses to submit."""
        return {"submission": sums["submission"]}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Empty: responses are scored by the server."""
        return {}
