"""Fill the tables of selectors and budgets of README.md and docs/which_selector.md from committed results.

    python benchmarks/advice.py            print the table
    python benchmarks/advice.py --write    put it into both pages, and fill the other tables of docs/which_selector.md

Run it after experiments/embedded_nine, ablation_fusion or sanity was answered again; tests compare both pages with it.
"""

import argparse
import math
from pathlib import Path

import pandas as pd

from zoo_exp.report.readme import fill

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "embedded_nine" / "results.csv"
PAGES = (ROOT / "README.md", ROOT / "docs" / "which_selector.md")
BEGIN = "<!-- filled by: python benchmarks/advice.py --write -->"
END = "<!-- end -->"
SHOWN = (
    "divprune",
    "zoo multiply",
    "zoo diagonal multiply",
    "uniform_grid",
    "visionzip",
    "random",
    "fastv",
)
"""Arms of the table, by their label without the budget, where the results have them."""


def table(results: Path = RESULTS) -> str:
    """Markdown: retained average by budget with its interval, and the selector's time at the smallest budget."""
    frame = pd.read_csv(results, dtype={"budget": str})
    average = frame[(frame["task"] == "average") & frame["budget"].notna()].copy()
    average["name"] = [
        arm.partition(" (")[0].removesuffix(f" @{budget}")
        for arm, budget in zip(average["arm"], average["budget"], strict=True)
    ]
    budgets = sorted(average["budget"].unique(), key=int, reverse=True)
    total = int(average["n_visual"].max())
    shares = [f"{budget} of {total}" for budget in budgets]
    lines = [
        f"| retained %, mean of nine tasks | {' | '.join(shares)} | selector ms |",
        "|---|" + "--:|" * (len(budgets) + 1),
    ]
    rows = []
    for name in SHOWN:
        mine = average[average["name"] == name].set_index("budget")
        if any(budget not in mine.index for budget in budgets):
            continue
        cells = [_interval(mine.loc[budget]) for budget in budgets]
        last = mine.loc[budgets[-1]]
        rows.append(
            (
                bool(mine["above_budget"].any()),
                -float(last["retained"]),
                name,
                cells,
                float(last["select_ms"]),
            )
        )
    for above, _, name, cells, milliseconds in sorted(rows):
        mark = " (keeps more)" if above else ""
        # A layer selector's time is part of the prefill.
        shown = "-" if math.isnan(milliseconds) else f"{milliseconds:.2f}"
        lines.append(f"| {name}{mark} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)


def _interval(row: pd.Series) -> str:
    return f"{row['retained']:.1f} [{row['retained_low']:.1f}, {row['retained_high']:.1f}]"


def filled(text: str, block: str) -> str:
    """A page with the block between its marks, and its tables of results (`<!-- table: experiments/... -->`)."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks the lines {BEGIN} and {END}")
    return fill(f"{before}{BEGIN}\n{block}\n{END}{after}", ROOT)


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into the pages")
    if parser.parse_args().write:
        for page in PAGES:
            page.write_text(filled(page.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
