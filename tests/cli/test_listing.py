"""Terminal output of `list`."""

import pytest

from zoo_exp import selectors
from zoo_exp._cli import listing
from zoo_exp.cli import main
from zoo_exp.config.folders import built_in


def cells(name):
    head, rows = listing.LISTINGS["selectors"]([built_in()])
    return next(row for row in [head, *rows] if row[0] == name)


@pytest.mark.parametrize("width", [80, 100])
def test_selectors_fit_a_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["list", "selectors"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_where_a_program_reads_it_a_selector_has_one_line(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["list", "selectors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("dart "))
    assert "least similar" in line
    assert selectors.get("dart").paper in line


def test_a_preset_has_the_paper_and_the_needs_of_its_selector():
    info = selectors.get("zoo")
    text = cells("zoo_closed_form")[-1]
    assert info.paper in text
    assert ", ".join(sorted(info.needs)) in text
    assert text.startswith("Preset: ")


def test_needs_are_those_of_the_options(tmp_path):
    (tmp_path / "selector").mkdir()
    (tmp_path / "selector" / "deep.yaml").write_text("# Deep.\nselector: zoo\noptions: {layer: 2}\n")
    (text,) = (row[-1] for row in listing.LISTINGS["selectors"]([tmp_path])[1] if row[0] == "deep")
    assert "hidden, projector, replay" in text


def test_listings_have_no_references_to_missing_documents(capsys):
    for what in listing.LISTINGS:
        assert main(["list", what]) == 0
    assert "spec:" not in capsys.readouterr().out


def test_options_of_every_selector_are_listed_with_their_meaning(capsys):
    for name in selectors.available():
        assert all(meaning for _, _, meaning in selectors.option_lines(name)), name
    assert main(["list", "selectors", "zoo_closed_form"]) == 0
    out = capsys.readouterr().out
    assert "Preset of zoo: estimator=closed_form" in out
    assert "n_directions  64           M, random directions per image." in out
    assert main(["list", "selectors", "zo"]) == 2
    assert "Did you mean 'zoo'?" in capsys.readouterr().err
