"""Check the paper against itself: averages from rows, poster against supplement, repeated rows, the FLOP formula."""

from dataclasses import dataclass

import pandas as pd

from zoo_exp.errors import MissingFileError
from zoo_exp.report import published as numbers

ROUNDING = 0.0501
"""Averages are printed with one decimal."""
ROW = ["source", "table", "model", "budget", "method", "variant"]
CELL = ["model", "budget", "method", "variant", "benchmark"]
OWN_HARNESS = ("DivPrune", "ZOO-Prune")
"""Methods whose rows the paper measured itself; FastV's, SparseVLM's and VisionZip's stand in earlier papers."""
PRAISED = (
    ("mmmu", "192", '"leading scores" on MMMU'),
    ("seedbench", "192", '"leading scores" on SEED'),
    ("scienceqa", "128", '"top results" on SQA'),
    ("pope", "128", '"top results" on POPE'),
    ("textvqa", "128", '"top results" on TextVQA'),
)
"""What D.1 says ZOO-Prune leads in: benchmark, budget, words."""
LAST_EARLY = 7
"""Layers of the encoder that count as early here, of 24."""
AGGRESSIVE = ("320", "160")
"""Budgets of Table D at which D.3's words can be checked."""
SAME_TABLES = {"B": "1", "C": "2"}
"""Tables of the supplement that repeat one of the poster."""


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree.

    Attributes:
        topic: which check found it.
        text: what is printed where, and what it is against.
    """

    topic: str
    text: str


@dataclass(frozen=True)
class Audit:
    """What was checked, and what was found."""

    checked: dict[str, int]
    findings: list[Finding]


def audit(published: pd.DataFrame | None = None) -> Audit:
    """Run every check on `experiments/published.csv`.

    Raises:
        MissingFileError: only the package is installed, without the file.
    """
    table = numbers.read() if published is None else published
    if table.empty:
        raise MissingFileError(
            f"cannot read {numbers.PATH.name}: it lies in experiments/ of a checkout, run this from there"
        )
    table = table.assign(value=table["value"].astype(float))
    checked: dict[str, int] = {}
    findings: list[Finding] = []
    for topic, check in (
        ("averages follow from their rows", averages),
        ("poster against supplement", poster_and_supplement),
        ("identical rows under different method names", repeated_rows),
        ("cells above the unpruned model", above_full),
        ("claims of the text", claims),
    ):
        count, found = check(table)
        checked[topic] = count
        findings += [Finding(topic, text) for text in found]
    for topic, derive in (("FLOP formulas", flops), ("proofs of appendix B", proofs)):
        count, found = derive()
        checked[topic] = count
        findings += [Finding(topic, text) for text in found]
    return Audit(checked, findings)


def averages(table: pd.DataFrame) -> tuple[int, list[str]]:
    """Every printed average against the mean over benchmarks of value / value of the full model."""
    full = table[table["method"] == "full"].groupby(["model", "benchmark"])["value"].first()
    count, found = 0, []
    for key, row in table[table["method"] != "full"].groupby(ROW, sort=False):
        values = row.set_index("benchmark")["value"]
        if "avg" not in values:
            continue
        printed = float(values.pop("avg"))
        shares = [100 * value / full[key[2], name] for name, value in values.items()]
        mean = sum(shares) / len(shares)
        count += 1
        if abs(mean - printed) > ROUNDING:
            found.append(f"{_where(key)}: prints {printed}, its {len(values)} cells give {mean:.2f}")
    return count, found


def poster_and_supplement(table: pd.DataFrame) -> tuple[int, list[str]]:
    """Cells that both print, and cells that two tables of one source print."""
    count, found = 0, []
    poster, supplement = table[table["source"] == "poster"], table[table["source"] == "supplement"]
    pairs = [
        (supplement[supplement["table"] == b], poster[poster["table"] == a]) for b, a in SAME_TABLES.items()
    ]
    multiply = poster[(poster["table"] == "4") & poster["variant"].str.contains("Multiply")]
    projector = supplement[supplement["variant"].str.contains("Projector")]
    main = poster[(poster["table"] == "3") & (poster["method"] == "ZOO-Prune")]
    pairs += [(part.assign(variant=""), main) for part in (multiply, projector)]
    for first, second in pairs:
        both = first.merge(second, on=CELL, suffixes=("_a", "_b"))
        # Averages over eight and over nine benchmarks are different numbers.
        both = both[(both["benchmark"] != "avg") | (both["protocol_a"] == both["protocol_b"])]
        count += len(both)
        for row in both[both["value_a"] != both["value_b"]].to_dict("records"):
            found.append(
                f"{row['model']}, {row['method']} at {row['budget']} tokens, {row['benchmark']}: "
                f"{row['value_b']} in {row['source_b']} table {row['table_b']}, "
                f"{row['value_a']} in {row['source_a']} table {row['table_a']}"
            )
    return count, found


def repeated_rows(table: pd.DataFrame) -> tuple[int, list[str]]:
    """Rows of one model and budget with the same cells under different names."""
    rows = {
        key: tuple(sorted(part.set_index("benchmark")["value"].drop("avg", errors="ignore").items()))
        for key, part in table[table["method"] != "full"].groupby(ROW, sort=False)
    }
    by_cells: dict[tuple[str, str, tuple[tuple[str, float], ...]], list[tuple[str, ...]]] = {}
    for key, cells in rows.items():
        by_cells.setdefault((key[2], key[3], cells), []).append(key)
    found = []
    for (model, budget, cells), keys in by_cells.items():
        names = {(key[4], key[5]) for key in keys if not _same_method(key)}
        if len({method for method, _ in names}) > 1:
            described = " = ".join(f"{_name(key)} ({key[0]} table {key[1]})" for key in keys)
            found.append(f"{model} at {budget} tokens, all {len(cells)} cells: {described}")
    return len(rows), found


def above_full(table: pd.DataFrame) -> tuple[int, list[str]]:
    """Benchmarks on which most pruned rows of a table beat the full model: base and rows differ in harness."""
    full = table[table["method"] == "full"].groupby(["model", "benchmark"])["value"].first()
    cells = table[(table["method"] != "full") & (table["benchmark"] != "avg") & (table["source"] == "poster")]
    cells = cells[cells["table"].isin(["1", "2", "3"])]
    base = pd.Series(
        [full[pair] for pair in zip(cells["model"], cells["benchmark"], strict=True)], cells.index
    )
    ratio = 100 * cells["value"] / base
    found = []
    for (model, benchmark), part in ratio.groupby([cells["model"], cells["benchmark"]]):
        if (part > 100).mean() > 0.5:
            found.append(
                f"{model}, {benchmark}: {int((part > 100).sum())} of {len(part)} pruned rows beat the full model "
                f"(up to {part.max():.1f} %); the base row is probably from another harness"
            )
    own = cells["method"].isin(OWN_HARNESS)
    for (model, benchmark), part in ratio.groupby([cells["model"], cells["benchmark"]]):
        budgets = [
            budget
            for budget, rows in part.groupby(cells.loc[part.index, "budget"], sort=False)
            if (rows[own[rows.index]] > 100).all() and (rows[~own[rows.index]] < 100).all()
        ]
        where = cells.loc[part.index, "budget"].isin(budgets)
        mine, copied = part[where & own[part.index]], part[where & ~own[part.index]]
        if len(copied):
            found.append(
                f"{model}, {benchmark} at {' and '.join(budgets)} tokens: {' and '.join(OWN_HARNESS)}, which the paper "
                f"ran, beat the full model ({mine.min():.1f} to {mine.max():.1f} %), rows copied from earlier papers "
                f"do not ({copied.min():.1f} to {copied.max():.1f} %); the base row is probably from "
                "the copied rows' harness"
            )
    return len(cells), found


def claims(table: pd.DataFrame) -> tuple[int, list[str]]:
    """Sentences of the supplement (D.1 to D.3) that can be checked against its tables."""

    def value(source: str, number: str, method: str, budget: str, benchmark: str) -> float:
        mine = table[
            (table["source"] == source)
            & (table["table"] == number)
            & (table["method"] == method)
            & (table["budget"] == budget)
            & (table["benchmark"] == benchmark)
        ]
        return float(mine["value"].iloc[0])

    found = []
    gqa = value("supplement", "B", "ZOO-Prune", "128", "gqa")
    science = value("supplement", "B", "ZOO-Prune", "128", "scienceqa")
    if gqa == 59.49 != science:
        found.append(
            f'D.1 gives "SQA (59.49%)" at 128 tokens: that is GQA; the table has ScienceQA {science}'
        )
    found += _leaders(table)
    best = {m: value("supplement", "B", m, "192", "avg") for m in ("VisionZip", "DivPrune")}
    if best["DivPrune"] > best["VisionZip"]:
        found.append(
            f'D.1 calls VisionZip ({best["VisionZip"]}) "the previous best method" at 192 tokens: the table has '
            f"DivPrune at {best['DivPrune']}"
        )
    share = (
        100 * value("poster", "3", "ZOO-Prune", "160", "pope") / value("poster", "3", "full", "2880", "pope")
    )
    if abs(share - 96.12) > 0.0051:
        found.append(
            f"D.2 says that POPE at 160 tokens is 96.12 % of the baseline: the table gives {share:.2f}"
        )
    return 3 + len(PRAISED) + 2, found + _early_layers(table)


def _leaders(table: pd.DataFrame) -> list[str]:
    """D.1's "leading scores" and "top results" that another row of the same budget exceeds."""
    mine = table[(table["source"] == "supplement") & (table["table"] == "B")]
    found = []
    for benchmark, budget, words in PRAISED:
        rows = mine[
            (mine["benchmark"] == benchmark) & (mine["budget"] == budget) & (mine["method"] != "full")
        ]
        if rows.empty:
            continue
        best = rows.loc[rows["value"].idxmax()]
        own = float(rows.loc[rows["method"] == "ZOO-Prune", "value"].iloc[0])
        if best["value"] > own:
            found.append(
                f"D.1 claims {words} at {budget} tokens: {best['method']} has {best['value']:.2f}, ZOO-Prune {own:.2f}"
            )
    return found


def _early_layers(table: pd.DataFrame) -> list[str]:
    """D.3's "early layers degrade sharply": how many deep layers an early one is above, at each budget of Table D."""
    mine = table[(table["table"] == "D") & (table["benchmark"] == "avg") & (table["method"] != "full")]
    found = []
    for budget, rows in mine[mine["budget"].isin(AGGRESSIVE)].groupby("budget", sort=False):
        ranked = rows.sort_values("value", ascending=False, kind="stable")
        layers = [
            int(digits) if digits else None
            for digits in ranked["variant"].str.extract(r"(\d+)")[0].fillna("")
        ]
        values = dict(zip(layers, ranked["value"], strict=True))
        early = max((n for n in layers if n is not None and 1 < n <= LAST_EARLY), key=lambda n: values[n])
        below = sorted(n for n in layers if n is not None and n > LAST_EARLY and values[n] < values[early])
        if below:
            place = 1 + sum(value > values[early] for value in values.values())
            found.append(
                f'D.3 says that early layers "degrade sharply" under aggressive pruning: only layer 1 does; at '
                f"{budget} tokens layer {early} ({values[early]}) stands at place {place} of {len(values)}, above "
                f"layers {', '.join(map(str, below))}"
            )
    return found


def proofs() -> tuple[int, list[str]]:
    """Steps of appendix B that do not follow."""
    return 2, [
        "proposition B.1: remainders of O(h^2) divided by 2h leave O(h), not O(h^2), and a function that is only "
        "differentiable at x has no O(h^2) remainder; the claim needs three continuous derivatives, with which the "
        "even terms cancel",
        "proposition B.1 takes u from N(0, I), Algorithm 1 takes u of unit length: S is smaller by about sqrt(Dv), "
        "the ranking is the same",
    ]


def flops(
    width: int = 4096, vision: int = 1024, hidden: int = 11008, layers: int = 32
) -> tuple[int, list[str]]:
    """Equations 8 to 11 of the supplement with the sizes of LLaVA-NeXT-7B."""
    m, k, n = 64, 128, 2880
    printed = 2 * m * n * width / k * (vision + width) - n * vision * width
    # A rank-k product costs k per input and output element: two layers, Dv -> k -> d -> GELU -> k' of d -> k -> d.
    needed = 2 * m * n * k * (vision + 3 * width)
    prefill = layers * (4 * n * width**2 + 2 * n**2 * width + 2 * n * width * hidden)
    gated = layers * (4 * n * width**2 + 2 * n**2 * width + 3 * n * width * hidden)
    found = [
        f"equation 10 charges d/k where a rank-k product costs k, and leaves out the second layer: it gives "
        f"{printed / 1e12:.3f} T, the factors need {needed / 1e12:.3f} T multiplications (m={m}, k={k}, n={n}), "
        f"{needed / printed:.0f} times as many: {100 * needed / prefill:.1f} % of its own prefill, not 0.3 %",
        f"the prefill formula counts two matrices of the feed-forward network, LLaMA has three: {prefill / 1e12:.1f} T "
        f"against {gated / 1e12:.1f} T multiplications at n={n}, text left out",
    ]
    return 2, found


def _same_method(key: tuple[str, ...]) -> bool:
    """Rows whose agreement is expected: the method itself, repeated in an ablation."""
    return "Multiply" in key[5] or "Projector" in key[5]


def _name(key: tuple[str, ...]) -> str:
    return " ".join(filter(None, (key[4], key[5])))


def _where(key: tuple[str, ...]) -> str:
    source, table, model, budget, *_ = key
    return f"{source} table {table}, {model} at {budget} tokens, {_name(key)}"
