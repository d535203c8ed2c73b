"""The wheel contains every module and configuration, and works outside of a checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import zoo_exp

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def canonical(requirement):
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is packaged, so that the checkout stays as it is."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("zoo_exp", "configs", "slurm"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    return copy


def built(folder):
    """The wheel of the sources in a folder."""
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=folder, check=True)
    (path,) = (folder / "out").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(source):
    return built(source)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Programs of a new environment with the wheel, which reads the other packages where they are installed."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    install = ["--python", str(folder / "bin/python"), "install", "--quiet", "--no-deps", "--no-index"]
    options = ["--disable-pip-version-check", "--ignore-installed", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install, *options], check=True)
    return folder / "bin"


def test_the_wheel_has_every_module_configuration_weight_and_template(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = [path.relative_to(ROOT) for path in (ROOT / "zoo_exp").rglob("*.py")]
    wanted += [Path("zoo_exp") / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")]
    weights = (ROOT / "zoo_exp/embedded/weights").glob("*")
    wanted += [path.relative_to(ROOT) for path in weights if path.is_file()]
    wanted += [path.relative_to(ROOT) for path in (ROOT / "zoo_exp/report/page").iterdir()]
    assert sorted(str(path) for path in wanted if path.as_posix() not in names) == []


def test_the_installed_package_finds_its_configurations(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import zoo_exp.config.folders as folders; print(folders.built_in())\n"
        "from zoo_exp.cli import main; raise SystemExit(main(['list', 'exps']))"
    )
    command, env = [sys.executable, "-c", code], {"PYTHONPATH": str(tmp_path), "PATH": ""}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[0] == str((tmp_path / "zoo_exp/configs").resolve())
    assert "ablation_fusion" in run.stdout


@pytest.mark.slow
def test_the_source_archive_gives_the_same_wheel(source, wheel, tmp_path):
    code = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    run = subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    with tarfile.open(source / "dist" / run.stdout.splitlines()[-1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = zipfile.ZipFile(built(unpacked))
    first = zipfile.ZipFile(wheel)
    sums = [
        {i.filename: i.CRC for i in z.infolist() if "dist-info" not in i.filename} for z in (first, again)
    ]
    assert sums[0] == sums[1]


@pytest.mark.slow
def test_the_demo_starts_from_the_wheel_alone(installed, tmp_path):
    """As with pipx: no checkout, no configuration beside the command."""
    env = {"PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        command = [installed / "zoo-exp", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    version = run("--version")
    assert version.stdout.strip() == f"zoo_exp {zoo_exp.__version__}"
    demo = run(
        "run",
        "+exp=ablation_fusion",
        "task=embedded_pope",
        "budget=8",
        "limit=2",
        "logger=none",
        "trainer=cpu",
    )
    assert demo.returncode == 0, demo.stderr
    assert "zoo multiply @8" in demo.stdout
    (records,) = (tmp_path / "runs/ablation_fusion").glob("*/records.jsonl")
    assert len(records.read_text().splitlines()) >= 8
    where = subprocess.run(
        [installed / "python", "-c", "import zoo_exp; print(zoo_exp.__file__)"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(installed.parent))


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in (ROOT / "zoo_exp").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_direct_dependency_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    direct = {
        canonical(name) for name in [*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]
    }
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [line for line in lines if line]
    assert direct - {canonical(line) for line in pins} == {"zoo-exp"}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in pins)


def test_every_pin_lies_within_the_declared_range():
    from importlib.metadata import version

    from packaging.requirements import Requirement

    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)
    pins = {canonical(name): number for name, number in pins.items()}
    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonical(requirement.name)]), text
        assert requirement.specifier.contains(version(requirement.name).split("+")[0]), text


def test_every_dependency_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = text.split("dependencies = [")[1].split("\n]")[0].strip().splitlines()
    assert [line for line in block if '"' in line and "#" not in line] == []


def test_make_installs_once_and_runs_the_documented_commands():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def planned(target):
        command = ["make", "--no-print-directory", "--dry-run", target, "VENV=no_such_venv"]
        # The tests may themselves run under make, whose flags and level a child would take over.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout

    demo = planned("demo")
    assert "pip install" in demo
    assert demo.rstrip().endswith("-m zoo_exp run +exp=ablation_fusion budget=[16,8] limit=38")
    assert "pytest -n 3" in planned("test")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_a_second_make_installs_nothing(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >> calls\n')
    python.chmod(0o755)

    def make(target):
        subprocess.run(["make", target], cwd=tmp_path, check=True, capture_output=True)
        calls = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return ["install" if "pip install" in call else "run" for call in calls]

    assert make("demo") == ["install", "run"]
    assert make("demo") == ["run"]
    assert make("test") == ["install", "run"]
    assert make("test") == ["run"]
    assert make("demo") == ["run"]
