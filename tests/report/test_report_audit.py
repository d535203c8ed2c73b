"""The audit finds known and injected inconsistencies."""

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
    first, second = texts(audit(table), "FLOP")
    assert "13 times as many" in first
    assert "16.7 T" in second


def test_the_printed_baseline_is_the_formula_for_the_benchmarks_images(table):
    """11.8 TFLOPs: 576 tokens and 48 x 32 of a 640 x 427 image, at whose 2112 tokens the formula gives it."""
    n, width, hidden = 576 + 48 * 32, 4096, 11008
    prefill = 32 * (4 * n * width**2 + 2 * n**2 * width + 2 * n * width * hidden)
    assert prefill / 1e12 == pytest.approx(11.8, abs=0.005)
    assert not any("11.8" in finding.text for finding in audit(table).findings)


def test_claims_of_the_supplement(table):
    found = "\n".join(texts(audit(table), "claims"))
    assert 'D.1 claims "leading scores" on MMMU at 192 tokens: VisionZip has 36.60, ZOO-Prune 36.11' in found
    assert 'D.1 claims "top results" on SQA at 128 tokens: DivPrune has 68.96, ZOO-Prune 68.91' in found
    assert "SEED" not in found
    assert "POPE at 128" not in found
    assert "layer 7 (94.3) stands at place 3 of 14, above layers 9, 11, 13, 15, 17, 19, 21, 23" in found
    assert "layer 5 (96.9) stands at place 2 of 14" in found
    assert "only layer 1 does" in found


def test_a_claim_that_holds_is_not_reported(table):
    table["value"] = table["value"].astype(float)
    mine = (table["method"] == "ZOO-Prune") & (table["benchmark"] == "mmmu") & (table["table"] == "B")
    table.loc[mine, "value"] = 40.0
    assert "MMMU" not in "\n".join(texts(audit(table), "claims"))


def test_rows_of_two_harnesses_are_distinguished(table):
    found = texts(audit(table), "above the unpruned")
    (seven,) = [text for text in found if text.startswith("LLaVA-1.5-7B, pope")]
    assert (
        "at 192 and 128 tokens: DivPrune and ZOO-Prune, which the paper ran, beat the full model (101.0 to 101.6 %)"
        in seven
    )
    (thirteen,) = [text for text in found if text.startswith("LLaVA-1.5-13B, pope")]
    assert "(100.7 to 101.2 %)" in thirteen
    assert "(99.1 to 99.2 %)" in thirteen
    (seed,) = [text for text in found if text.startswith("LLaVA-1.5-7B, seedbench at 192")]
    assert "(100.2 to 100.3 %)" in seed


def test_the_audit_questions_the_proof(table):
    remainder, length = texts(audit(table), "proofs")
    assert "leave O(h), not O(h^2)" in remainder
    assert "unit length" in length


def test_without_the_file_the_message_has_its_path(table):
    with pytest.raises(MissingFileError, match=r"published\.csv.*checkout"):
        audit(table.head(0))


def test_the_command_prints_every_check(capsys):
    assert main(["paper", "audit"]) == 0
    out = capsys.readouterr().out
    assert "poster against supplement" in out
    assert "1780.83" in out
    assert main(["paper", "adit"]) == 2
    assert "Did you mean 'audit'" in capsys.readouterr().err
