"""What a README says in words about results: where they come from, and which claims hold where."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from zoo_exp.embedded.shipped import is_shipped, weights_digest
from zoo_exp.report.renderers import escape_markdown
from zoo_exp.report.tabular import Column, Table, build, known, p_text, signed, text
from zoo_exp.statistics.claims import HOLDS, OPEN, REVERSED

WORDS = {HOLDS: "holds", REVERSED: "is reversed", OPEN: "is not shown"}


def claim_findings(
    claims: Sequence[Mapping[str, Any]], confirm: Sequence[Mapping[str, Any]]
) -> tuple[Table, str]:
    """The table of an experiment's claims, and one sentence per claim.

    Args:
        claims: lines with the columns of `statistics.claims`.
        confirm: the same on other scenes; empty if they were not answered.
    """
    again = {(line["claim"], line["arm"]): line for line in confirm}
    lines = [{**line, "confirm": again.get((line["claim"], line["arm"]))} for line in claims]
    columns = [
        Column("claim", text("claim"), left=True),
        Column("arm", text("arm"), left=True),
        Column("compared with", text("against"), left=True),
        Column("difference (points)", _difference),
        Column("p (Holm)", lambda line: p_text(line["p_holm"])),
        Column("holds", text("holds"), left=True),
    ]
    if confirm:
        columns += [
            Column("confirm: difference", lambda line: _difference(line["confirm"])),
            Column(
                "confirm: holds", lambda line: line["confirm"]["holds"] if line["confirm"] else "-", left=True
            ),
        ]
    sentences = []
    for claim in dict.fromkeys(str(line["claim"]) for line in claims):
        mine = [line for line in claims if line["claim"] == claim]
        rows = f"rows of `{_plain(mine[0], 'arm')}` and `{_plain(mine[0], 'against')}`"
        said = f"* {escape_markdown(claim)}: {_where(mine)} ({rows})."
        other = [line for line in confirm if line["claim"] == claim]
        sentences.append(f"{said} On the confirm scenes it {_where(other)}." if other else said)
    return build("claims", "Claims", columns, lines), "\n".join(sentences)


def _difference(line: Mapping[str, Any] | None) -> str:
    return "-" if line is None else signed(line["difference"], line["low"], line["high"])


def _plain(line: Mapping[str, Any], key: str) -> str:
    """The row's name without budget and number of seeds."""
    return str(line[key]).partition(" @")[0]


def _where(lines: Sequence[Mapping[str, Any]]) -> str:
    """For example: `holds at 8 and 4; is not shown at 16`."""
    parts = []
    for verdict, words in WORDS.items():
        budgets = [str(line["budget"]) for line in lines if line["holds"] == verdict]
        if budgets:
            parts.append(f"{words} at {_listed(budgets)}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> _listed(["48", "32", "16"])
    '48, 32 and 16'
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def origin(run: Mapping[str, Any]) -> str:
    """Date, commit, command, model, and size of a run, from its run.json; whether its model ships other weights now."""
    minutes = ", ".join(f"{key} {_time(seconds)}" for key, seconds in run.get("seconds", {}).items())
    parts = [
        f"Answered {run['date']} on commit {run['commit']}, model `{run['model']}`: `{run['command']}`.",
        f"{run['questions']:,} questions over {run['tasks']} tasks, {run['answers']:,} answers.",
    ]
    if known(run.get("confirm_questions")):
        parts.append(
            f"Claims again on {run['confirm_questions']:,} questions about the scenes of split `confirm`."
        )
    most = run.get("unreadable")
    if most and most["share"]:
        share = f"{100 * most['share']:.1f} % of the responses of `{most['arm']}` to `{most['task']}`"
        parts.append(f"Unreadable responses: at most {share}.")
    elif most:
        parts.append("No unreadable responses to questions with closed answers.")
    if minutes:
        parts.append(f"Processor time: {minutes}.")
    model, weights = run["model"], run.get("weights")
    if weights and is_shipped(model) and weights != (now := weights_digest(model)):
        parts.append(f"**Earlier weights:** `{weights}`; the package ships `{now}` of `{model}` since.")
    return " ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def accuracy_lines(result: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Arms, and one line per family with the share of right answers in percent and its 95 % Wilson interval.

    Args:
        result: arm -> family -> `right` (share) and `n`; and `average`.
    """
    arms = list(result)
    families = [name for name in result[arms[0]] if name != "average"]
    lines: list[dict[str, Any]] = []
    for family in families:
        line: dict[str, Any] = {"family": family, "n": float(result[arms[0]][family]["n"])}
        for arm in arms:
            share, n = result[arm][family]["right"], result[arm][family]["n"]
            found = binomtest(round(share * n), n).proportion_ci(method="wilson")
            line[arm] = f"{100 * share:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        lines.append(line)
    total: dict[str, Any] = {"family": "average", "n": float(sum(line["n"] for line in lines))}
    for arm in arms:
        average = 100 * result[arm]["average"]
        share = average / result["full"]["average"]
        total[arm] = f"{average:.1f}{f' ({share:.1f} % retained)' if arm.startswith('random') else ''}"
    return arms, [*lines, total]
