"""Completion in shells: every flag, what some of them take, modules in the working directory.

How it works: the script is printed by the command, and where the shell is installed, it completes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import bjoern
from bjoern import options
from programs import Program


def script(shell: str, cwd: Path) -> str:
    with Program("-m", "bjoern", "--completion", shell, cwd=cwd) as program:
        code, output, errors = program.end()
    assert (code, errors) == (0, "")
    return output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_flag_is_there(shell: str, tmp_path: Path) -> None:
    text = script(shell, tmp_path)
    for option in options.OPTIONS:
        name = options.flag(option)
        assert (f"-l {name[2:]} " if shell == "fish" else name) in text
        if shell != "bash":
            assert option.help.split("'")[0].split("[")[0].split(":")[0] in text
    assert isinstance(bjoern.Options.workers, int)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_it(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    run = subprocess.run([shell, "-n"], input=script(shell, tmp_path), text=True, capture_output=True)
    assert (run.returncode, run.stderr) == (0, "")


def completed(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    program = f"""
{script("bash", tmp_path)}
COMP_WORDS=(bjoern "$@"); COMP_CWORD=$#
_bjoern
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    run = subprocess.run(["bash", "-c", program, "bash", *words], text=True, capture_output=True, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.split()


def test_bash(tmp_path: Path) -> None:
    (tmp_path / "hello.py").touch()
    (tmp_path / "help.txt").touch()
    assert completed(tmp_path, "--worker") == ["--workers", "--worker-timeout"]
    assert completed(tmp_path, "--no-pre") == ["--no-preload"]
    assert completed(tmp_path, "--log-level", "") == ["debug", "info", "warning", "error"]
    assert completed(tmp_path, "--completion", "z") == ["zsh"]
    assert sorted(completed(tmp_path, "--pid", "hel")) == ["hello.py", "help.txt"]
    assert completed(tmp_path, "--threads", "") == []
    assert completed(tmp_path, "he") == ["hello"]


def test_another_shell(tmp_path: Path) -> None:
    with Program("-m", "bjoern", "--completion", "tcsh", cwd=tmp_path) as program:
        code, output, errors = program.end()
    assert (code, output) == (2, "")
    assert "argument --completion: invalid choice: 'tcsh'" in errors
