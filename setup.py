"""Which folders are packages; everything else about the package is in pyproject.toml.

`configs/` and `slurm/` lie at the top of the repository, where people look for them, and are installed as
`zoo_exp.configs` and `zoo_exp.slurm`.
"""

from pathlib import Path

from setuptools import find_packages, setup

groups = sorted(path.parent.name for path in Path("configs").glob("*/*.yaml") if path.parent.name != "local")
setup(
    packages=[
        *find_packages(include=["zoo_exp", "zoo_exp.*"]),
        "zoo_exp.configs",
        "zoo_exp.slurm",
        *dict.fromkeys(f"zoo_exp.configs.{group}" for group in groups),
    ]
)
