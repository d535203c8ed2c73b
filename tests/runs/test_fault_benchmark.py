"""A part of benchmarks/faults.py: bad input of every kind, and a few seeded episodes of kills and signals."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from kills import loaded_once

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import faults
from faults import Case, Outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Processes are forked here; a pool of threads would not be there in the child."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def all_cases(one_thread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    return folder, faults.cases(folder, 0)


def test_there_are_three_hundred_bad_inputs_of_eight_kinds(all_cases):
    kinds = Counter(case.kind for case in all_cases[1])
    assert sum(kinds.values()) >= 300
    assert len(kinds) == 8
    assert min(kinds.values()) >= 20


@pytest.mark.parametrize("start", range(4))
def test_bad_input_gives_one_line_and_the_right_code(all_cases, start):
    folder, cases = all_cases
    found = [faults.attempt(case, folder) for case in cases[7 * start :: 29]]
    # The time limit is for a machine of one's own.
    wrong = [(o.case.kind, o.case.name, o.code, o.printed[-300:]) for o in found if set(o.faults) - {"slow"}]
    assert wrong == []


def test_faults_are_seen():
    case = Case("kind", "name", lambda folder: [])
    good = Outcome(case, 2, 0.1, "error: x\n", [])
    assert good.faults == []
    bad = {
        "traceback": Outcome(case, 2, 0.1, "error: x\nTraceback (most recent call last):\n", []),
        "exit code": Outcome(case, 1, 0.1, "error: x\n", []),
        "message": Outcome(case, 2, 0.1, "error: x\nerror: y\n", []),
        "slow": Outcome(case, 2, 11.0, "error: x\n", []),
        "outside": Outcome(case, 2, 0.1, "error: x\n", ["file"]),
    }
    assert [outcome.faults for outcome in bad.values()] == [[name] for name in bad]


def test_seeded_kills_and_signals_change_nothing(tmp_path):
    with loaded_once([*faults.TWO_TASKS]):
        tallies = faults.episodes(tmp_path, seed=1, count=5)
    assert sum(tally.episodes for tally in tallies) == 5
    assert [(t.records, t.masks, t.codes) for t in tallies] == [(0, 0, 0)] * 3, (
        tmp_path / "log"
    ).read_text()[-2000:]
