"""The table of benchmarks/peers.py: rates, equal answers, quoted rows, and the rows of what is installed."""

import argparse
import csv
import io
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import peers

    return peers


def test_rates_selector_times_and_equal_answers(peers):
    row = peers.Clock(seconds=2.0, selecting=0.1).row("loop", "zoo", 50, 49)
    assert row.cells() == ["loop", "zoo", "50", "25.0", "2.00", "49 of 50", peers.HERE]
    other = peers.Clock(seconds=8.0).row("loop", "full", 50, 50)
    both = peers.one_by_one([row, other])
    assert both.cells() == ["loop", "all arms, one by one", "100", "10.0", "", "99 of 100", peers.HERE]
    first = {("t", 0): "yes", ("t", 1): "no"}
    assert peers.count_equal({("t", 0): "yes", ("t", 1): "yes", ("u", 0): "no"}, first) == 1


def test_a_quoted_row_names_its_source_and_has_no_selector_time(peers):
    table = list(csv.DictReader(io.StringIO(peers.csv_text(peers.QUOTED))))
    assert {row["measured"] for row in table} == {"quoted, AngelSlim 67394ce"}
    assert {row["selector_ms"] for row in table} == {""}
    assert table[1]["samples_per_s"] == "39.1"  # 25.6 ms
    assert table[1]["answers_equal"] == "44 of 50"
    assert len(peers.markdown(peers.QUOTED).splitlines()) == 2 + len(table)


def test_time_inside_of_a_timed_method_counts_once_and_methods_are_restored(peers):
    class Base:
        def score(self):
            return 1

    class Selector(Base):
        def select_many(self):
            return self.score() + 1

    spent = []
    with peers.clocked(Selector, ("score", "select_many"), spent.append):
        assert Selector().select_many() == 2
        assert len(spent) == 1
        assert Selector().score() == 1
        assert len(spent) == 2
    assert "score" not in vars(Selector)
    assert Selector().select_many() == 2
    assert len(spent) == 2


@pytest.mark.parametrize("installed", [False, True])
def test_rows_appear_for_what_is_installed(peers, installed, monkeypatch, tmp_path):
    """Loops that answer at once: lmms-eval gives one other answer."""
    answers = {("t", 0): "yes", ("t", 1): "no"}
    monkeypatch.setitem(sys.modules, "throughput", argparse.Namespace(mark_the_test_loop=lambda now: {}))
    monkeypatch.setattr(peers, "TASKS", ())
    monkeypatch.setattr("zoo_exp.models.loading.load_model", lambda *_, **__: None)
    monkeypatch.setattr(peers, "own_loop", lambda arms, *_: (dict.fromkeys(arms, answers), 1.0))
    monkeypatch.setattr(peers, "stock_loop", lambda *_: (answers, 2.0))
    monkeypatch.setattr(peers, "lmms_eval_loop", lambda *_: (answers | {("t", 1): "yes"}, 4.0))
    monkeypatch.setattr(peers, "lmms_eval_version", lambda: "0.7.9" if installed else None)
    rows = peers.compare(argparse.Namespace(arms=["full", "divprune"], limit=1, budget=16), tmp_path)
    found = {(row.loop, row.arm): (row.samples_per_s, row.equal) for row in rows}
    assert found["run", "divprune"] == (2.0, None)
    assert found["run", "all arms, one run"] == (4.0, 4)
    assert found["stock generate", "all arms, one by one"] == (1.0, 4)
    theirs = {arm: value for (loop, arm), value in found.items() if loop.startswith("lmms-eval")}
    assert theirs == (
        {"full": (0.5, 1), "divprune": (0.5, 1), "all arms, one by one": (0.5, 2)} if installed else {}
    )
