"""A mean over layers that an arm cannot reach is refused before anything is answered."""

from types import SimpleNamespace

import pytest

from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import attempt


@pytest.mark.parametrize(("budget", "fits"), [("32 mean", False), ("72 mean", True), ("32", True)])
def test_refused_when_the_model_is_known(budget, fits, monkeypatch):
    """Two full layers of four are 72 of 144 tokens in the mean."""
    loaded = SimpleNamespace(n_visual=144, adapter=SimpleNamespace(layers=[None] * 4))
    monkeypatch.setattr(attempt, "load_configured", lambda model, decoder: loaded)
    experiment = compose(["selector=fastv", f"budget={budget}"])
    if fits:
        assert attempt._load(experiment) is loaded
        return
    message = (
        r"budget 32 mean of selector fastv: 2 full layers of 4 alone .* average of 72\.0; give 72 or more"
    )
    with pytest.raises(InvalidValueError, match=message):
        attempt._load(experiment)
