"""Tab completion: the script of bash is run by bash, that of zsh is checked for its words."""

import shutil
import subprocess

import pytest

from zoo_exp.cli import COMMANDS, main


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, with an experiment of the user."""
    import contextlib
    import io

    own = tmp_path_factory.mktemp("own")
    (own / "exp").mkdir()
    (own / "exp" / "my_study.yaml").write_text("question: mine\n")
    found = {}
    for shell in ("bash", "zsh"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["completion", shell, "--config-dir", str(own)]) == 0
        found[shell] = own / f"complete.{shell}"
        found[shell].write_text(out.getvalue())
    return found


def complete(script, lines):
    """What bash offers at the end of each line."""
    program = f"source {script}\n" + "".join(
        f"COMP_LINE='{line}' COMP_POINT={len(line)}; _zoo_exp; echo \"${{COMPREPLY[*]}}\"\n" for line in lines
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [answer.split() for answer in done.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_keys_names_and_flags(scripts):
    z = "python -m zoo_exp"
    given = {
        f"{z} ru": ["run"],
        "zoo-exp ru": ["run"],
        f"{z} run +exp=abl": ["ablation_fusion"],
        f"{z} run +exp=my": ["my_study"],
        f"{z} run +e": ["+exp="],
        f"{z} run model=llava_n": ["llava_next_7b"],
        f"{z} run task=embedded_po": ["embedded_pope"],
        f"{z} run selector=[full,divp": ["[full,divprune"],
        f"{z} run model.batch": ["model.batch_size="],
        f"{z} run budg": ["budget="],
        f"{z} list ru": ["runs"],
        f"{z} score textvqa_val_": ["textvqa_val_ocr"],
        f"{z} clean --y": ["--yes"],
        f"{z} report --mi": ["--mixed"],
        "python -m pytest te": [],
        "python scr": [],
    }
    assert dict(zip(given, complete(scripts["bash"], list(given)), strict=True)) == given
    (commands,) = complete(scripts["bash"], [f"{z} "])
    assert sorted(commands) == sorted(COMMANDS)


def test_zsh_knows_the_same_words(scripts):
    text = scripts["zsh"].read_text()
    table = scripts["bash"].read_text().partition("_zoo_exp() {")[0]
    assert text.startswith("#compdef zoo-exp")
    assert table in text
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", str(scripts["zsh"])], check=True)


def test_an_unknown_shell_is_one_line(capsys):
    assert main(["completion", "bsh"]) == 2
    assert "Did you mean 'bash'" in capsys.readouterr().err
