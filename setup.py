"""Which folders are packages; everything else about the package is in pyproject.toml.

`configs/` lies at the top of the repository, where people look for it, and is installed as `zoo_exp.configs`.
"""

from pathlib import Path

from setuptools import find_packages, setup

groups = sorted(path.parent.name for path in Path("configs").glob("*/*.yaml") if path.parent.name != "local")
setup(
    packages=[
        *find_packages(include=["zoo_exp", "zoo_exp.*"]),
        "zoo_exp.configs",
        *dict.fromkeys(f"zoo_exp.configs.{group}" for group in groups),
    ]
)
