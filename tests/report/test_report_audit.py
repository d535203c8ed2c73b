"""The audit finds what is known to disagree, and what is put in on purpose."""

import pytest

from zoo_exp.cli import main
from zoo_exp.errors import MissingFileError
from zoo_exp.report import published
from zoo_exp.report.audit import audit


@pytest.fixture
def table():
    return published.read()


def texts(found, topic):
    return [finding.text for finding in found.findings if topic in finding.topic]


def test_the_known_disagreements(table):
    found = audit(table)
    cells = "\n".join(texts(found, "poster against supplement"))
    for pair in (("66.53", "66.58"), ("72.83", "72.88"), ("1780.83", "1780.03"), ("64.86", "64.83")):
        assert all(number in cells for number in pair)
    assert len(texts(found, "poster against supplement")) == 4
    twice = texts(found, "identical rows")
    assert len(twice) == 3
    assert all("DivPrune" in text and "fusion=Sum" in text for text in twice)
    assert any("mmmu: 8 of 12" in text for text in texts(found, "above the unpruned"))
    assert texts(found, "averages") == []
    assert found.checked["averages follow from their rows"] > 100


def test_a_changed_cell_is_found(table):
    place = table.index[(table["method"] == "DivPrune") & (table["benchmark"] == "gqa")][0]
    table["value"] = table["value"].astype(float)
    table.loc[place, "value"] += 5
    found = audit(table)
    assert len(texts(found, "averages")) == 1
    assert len(texts(found, "poster against supplement")) == 5


def test_the_flop_formula_is_thirteen_times_too_small(table):
    first, second, third = texts(audit(table), "FLOP")
    assert "13 times as many" in first
    assert "16.7 T" in second
    assert "11.8" in third


def test_without_the_file_it_says_where_it_lies(table):
    with pytest.raises(MissingFileError, match=r"published\.csv.*checkout"):
        audit(table.head(0))


def test_the_command_prints_every_check(capsys):
    assert main(["paper", "audit"]) == 0
    out = capsys.readouterr().out
    assert "poster against supplement" in out
    assert "1780.83" in out
    assert main(["paper", "adit"]) == 2
    assert "Did you mean 'audit'" in capsys.readouterr().err
