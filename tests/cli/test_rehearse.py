"""`rehearse`: an experiment on a slim checkpoint passes its checks, and what is wrong is found."""

import pytest

from zoo_exp.cli import main
from zoo_exp.core.budget import Budget
from zoo_exp.evaluation import module
from zoo_exp.models import answering, prompt
from zoo_exp.selectors.divprune import DivPrune


def test_an_experiment_on_a_slim_checkpoint(capsys):
    assert main(["rehearse", "+exp=qwen25_vl_7b"]) == 0
    out = capsys.readouterr().out
    (line,) = [line.split() for line in out.splitlines() if line.startswith("qwen25_vl_7b ")]
    assert line[1:7] == ["28/28", "0", "ok", "ok", "ok", "ok"]
    assert "1 experiments, 0 failed" in out
    assert module.generate.__module__ == "zoo_exp.models.answering"


@pytest.mark.parametrize("wrong", ["kept", "generate"])
def test_what_is_wrong_is_found(wrong, capsys, monkeypatch):
    if wrong == "kept":
        select = DivPrune.select_many
        monkeypatch.setattr(
            DivPrune,
            "select_many",
            lambda self, images, budget, *rest: select(self, images, Budget(count=5), *rest),
        )
    else:
        inner = prompt.generate_pruned

        def sampling(model, given, **options):
            return inner(model, given, **{**options, "do_sample": True})

        monkeypatch.setattr(answering, "generate_pruned", sampling)
    assert main(["rehearse", "+exp=ablation_fusion", "selector=[full,divprune]", "budget=16"]) == 1
    out = capsys.readouterr().out
    assert f"    {wrong}: " in out
    assert "1 failed" in out
