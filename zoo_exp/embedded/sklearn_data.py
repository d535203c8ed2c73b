"""Scanned digits and photographs that come with scikit-learn, read from its files without importing it.

`sklearn.datasets` takes a second to import, most of it scipy and pandas, and the first answer of a run waits for it.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo_exp.errors import MissingFileError


def load_scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scanned digits [1797, 8, 8] with values 0 to 16, and their values, as `sklearn.datasets.load_digits`."""
    with gzip.open(_folder() / "data" / "digits.csv.gz", "rt", encoding="utf-8") as file:
        table: NDArray[Any] = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def load_photographs() -> list[NDArray[np.uint8]]:
    """Two photographs [height, width, 3], as `sklearn.datasets.load_sample_images`."""
    found = []
    for path in sorted((_folder() / "images").glob("*.jpg")):
        with Image.open(path) as image:
            found.append(np.asarray(image))
    return found


def _folder() -> Path:
    """The data sets of the installed scikit-learn.

    Raises:
        MissingFileError: it is not installed.
    """
    spec = find_spec("sklearn")  # a top-level package is found without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError("the embedded world needs scikit-learn: pip install scikit-learn")
    return Path(spec.submodule_search_locations[0]) / "datasets"
