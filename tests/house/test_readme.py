"""The README is short, its links lead to files, and its table is that of the committed results.

tests/docs runs its code and commands.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_links_and_images_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 20
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_it_is_short():
    assert len(README.splitlines()) <= 120


def test_the_table_of_selectors_is_that_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import advice

    assert advice.filled(README, advice.table()) == README, "run: python benchmarks/advice.py --write"
    assert len(advice.table().splitlines()) >= 7
    rows = [line.strip("| ").split(" | ") for line in advice.table().splitlines()[2:]]
    best = {max(rows, key=lambda row: float(row[column].split()[0]))[0] for column in (1, 2)}
    names = {"zoo_diagonal": "zoo diagonal multiply", "divprune": "divprune"}
    advised = re.findall(r"`(\w+)`", re.search(r"Start with (.*?)\(", README)[1])
    assert best == {names[name] for name in advised}, "the advice below the table names other selectors"
