"""Arms at equal cost: each layer selector beside the input selectors whose prefill takes about as many FLOPs.

At one budget a layer selector costs more, as its first layers see every token; at equal prefill FLOPs an input
selector keeps more tokens.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.comparisons import Contest
from zoo_exp.statistics.frame import AVERAGE

COLUMNS = (
    *("layer_arm", "layer_tflop", "layer_retained", "arm", "tflop", "retained"),
    *("ratio", "difference", "low", "high"),
)
CLOSE = 1.15
"""Largest ratio of the two costs at which arms are matched."""


def match(rows: Sequence[ArmRow], frame: pd.DataFrame, contest: Contest) -> pd.DataFrame:
    """Match each layer selector's row with the nearest row of every input selector.

    The cost is prefill and selector together, averaged over tasks. Of an input selector's budgets the one with the
    nearest cost (in ratio) is taken, if it is within a factor of `CLOSE`.

    Args:
        rows: the R rows of the table.
        frame: see `results.Results`.
        contest: the retained averages.

    Returns:
        Rows with `COLUMNS`: costs in TFLOP, differences (layer selector - input selector) in percentage points.
    """
    averages = frame[frame["task"] == AVERAGE].set_index("arm")
    if not {"prefill_tflop", "selector_tflop"} <= set(averages.columns):
        return pd.DataFrame(columns=list(COLUMNS))
    cost = (averages["prefill_tflop"] + averages["selector_tflop"].fillna(0)).to_dict()
    layer = {label: not math.isnan(value) for label, value in averages["layer_tokens"].to_dict().items()}
    place = {row.label: number for number, row in enumerate(rows)}
    lines = []
    for one in rows:
        if not layer.get(one.label) or not cost[one.label] > 0 or math.isnan(contest.value[place[one.label]]):
            continue
        for other in _nearest(one.label, rows, cost, layer):
            first, second = place[one.label], place[other]
            interval = contest.interval(first, second)
            values = contest.value[first], contest.value[second]
            lines.append(
                (
                    *(one.label, cost[one.label], values[0], other, cost[other], values[1]),
                    *(cost[other] / cost[one.label], values[0] - values[1], interval.low, interval.high),
                )
            )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _nearest(
    label: str, rows: Sequence[ArmRow], cost: Mapping[str, float], layer: Mapping[str, bool]
) -> list[str]:
    """Of each input selector the row with the nearest cost, if that is close enough."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.budget is not None and not layer[row.label] and cost[row.label] > 0:
            groups.setdefault(row.row.removesuffix(f" @{row.budget}"), []).append(row.label)
    found = []
    for members in groups.values():
        best = min(members, key=lambda other: abs(math.log(cost[other] / cost[label])))
        if 1 / CLOSE <= cost[best] / cost[label] <= CLOSE:
            found.append(best)
    return found
