"""The files of scikit-learn hold what its loaders return."""

import numpy as np
import pytest

from zoo_exp.embedded import sklearn_data
from zoo_exp.errors import MissingFileError


def test_the_files_are_read_as_scikit_learn_reads_them():
    from sklearn.datasets import load_digits, load_sample_images

    scans, digits = sklearn_data.load_scans()
    wanted = load_digits()
    assert scans.dtype == wanted.images.dtype
    assert np.array_equal(scans, wanted.images)
    assert np.array_equal(digits, wanted.target)
    photographs = load_sample_images().images
    assert len(photographs) == 2
    for ours, theirs in zip(sklearn_data.load_photographs(), photographs, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sklearn_data, "find_spec", lambda name: None)
    with pytest.raises(MissingFileError, match="pip install scikit-learn"):
        sklearn_data.load_scans()
