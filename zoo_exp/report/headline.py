"""The result of a run in a few sentences, with its uncertainty."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from zoo_exp.report.tabular import DASH, count, known, p_text, signed, with_interval
from zoo_exp.statistics.frame import AVERAGE, measured_tokens
from zoo_exp.statistics.results import Results


@dataclass(frozen=True)
class Headline:
    """The best arm at the smallest budget.

    Attributes:
        arm: its label.
        kept: visual tokens that it kept, mean.
        n_visual: visual tokens without pruning, mean.
        retained: its retained average, percent; `low` and `high` are the 95 % interval.
        low: see `retained`.
        high: see `retained`.
        ahead: whether it is significantly better than every other arm of its budget.
        rivals: arms that it does not differ from significantly: (label, difference with its interval).
        random: difference to the random selector of the same budget, or empty.
        flops: its FLOPs as a share of the full model's, or nan.
    """

    arm: str
    kept: float
    n_visual: float
    retained: float
    low: float
    high: float
    ahead: bool
    rivals: tuple[tuple[str, str], ...]
    random: str
    flops: float

    @property
    def interval(self) -> str:
        """The retained average as a table shows it."""
        return with_interval(self.retained, self.low, self.high)

    @property
    def verdict(self) -> str:
        """The comparison within its budget, for a table."""
        if self.ahead:
            return "significantly best"
        if not self.rivals:
            return DASH
        return f"tied with {len(self.rivals)}" if self._has_intervals else "no intervals"

    @property
    def _has_intervals(self) -> bool:
        return any("[" in difference for _, difference in self.rivals)

    def tokens(self) -> str:
        """How many tokens are kept.

        >>> Headline("a", 16.0, 144.0, 90.0, 88.0, 92.0, True, (), "", 0.5).tokens()
        '16 of 144 visual tokens (11 %)'
        """
        if not self.n_visual > 0:
            return f"{count(self.kept)} visual tokens"
        return f"{count(self.kept)} of {count(self.n_visual)} visual tokens ({100 * self.kept / self.n_visual:.0f} %)"

    def sentences(self) -> list[str]:
        """For the page and for Markdown."""
        lines = [
            f"With {self.tokens()}, {self.arm} retains {self.interval} % of the full model's average score."
        ]
        if self.ahead:
            lines.append(
                "Significantly better than every other arm at this budget (all paired 95 % CIs exclude 0)."
            )
        elif self.rivals:
            named = ", ".join(f"{name} ({difference})" for name, difference in self.rivals[:3])
            more = f" and {len(self.rivals) - 3} more" if len(self.rivals) > 3 else ""
            if self._has_intervals:
                lines.append(f"Not significantly different from {named}{more}.")
            else:
                lines.append(f"Too few questions for intervals of the differences to {named}{more}.")
        if self.random:
            lines.append(f"Difference to random selection: {self.random} percentage points.")
        return lines


def headline(results: Results) -> Headline | None:
    """The best arm of the budget that keeps the fewest tokens; None without budgets or without a full arm."""
    frame = results.frame
    mine = frame[(frame["task"] == AVERAGE) & frame["budget"].notna() & frame["retained"].notna()]
    pairs = results.comparisons
    compared = mine[mine["arm"].isin(pairs["arm"])] if len(pairs) else mine
    if compared.empty:
        return None
    # The best arm of a budget is the one that the others are compared with; without a comparison, the one that
    # retains most.
    small = mine[mine["budget"] == compared.loc[measured_tokens(compared).fillna(0).idxmin(), "budget"]]
    leaders = small[small["arm"].isin(pairs["arm"])] if len(pairs) else small
    best: dict[str, Any] = (leaders if len(leaders) else small).sort_values("retained").iloc[-1].to_dict()
    against = pairs[pairs["arm"] == best["arm"]]
    rivals = tuple(
        (str(line["against"]), _difference(line))
        for line in against.sort_values("difference").to_dict("records")
        if not line["significant"]
    )
    return Headline(
        arm=str(best["arm"]),
        kept=float(measured_tokens(pd.DataFrame([best])).iloc[0]),
        n_visual=float(best["n_visual"]),
        retained=float(best["retained"]),
        low=float(best["retained_low"]),
        high=float(best["retained_high"]),
        ahead=bool(best["best"]),
        rivals=rivals,
        random=_random(against, small),
        flops=_share(frame, best),
    )


def _difference(line: dict[str, Any]) -> str:
    """A difference that is not significant; where its interval excludes 0, also the p value that says so."""
    shown = signed(line["difference"], line["low"], line["high"])
    excluded = known(line["low"]) and (line["low"] > 0 or line["high"] < 0)
    return f"{shown}, but p = {p_text(line['p_holm'])} after Holm's correction" if excluded else shown


def _random(against: pd.DataFrame, small: pd.DataFrame) -> str:
    names = set(small.loc[small["selector"] == "random", "arm"])
    lines = against[against["against"].isin(names)].to_dict("records")
    return signed(lines[0]["difference"], lines[0]["low"], lines[0]["high"]) if lines else ""


def _share(frame: pd.DataFrame, best: dict[str, Any]) -> float:
    full = frame.loc[(frame["task"] == AVERAGE) & (frame["selector"] == "full"), "flops_tflop"]
    return float(best["flops_tflop"] / full.iloc[0]) if len(full) and full.iloc[0] > 0 else float("nan")


def change(share: float) -> str:
    """A share of the full model's FLOPs as a relative change.

    >>> change(0.66), change(1.1)
    ('-34 %', '+10 %')
    """
    return f"{100 * (share - 1):+.0f} %" if share == share else DASH
