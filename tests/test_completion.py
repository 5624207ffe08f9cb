"""Completion in shells: every flag, what some of them take, modules in the working directory.

How it works: the script is printed by the command, and where the shell is installed, it completes what is typed.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
from pathlib import Path

import pytest

import bjoern
from bjoern import options
from programs import GUARD, Program


def script(shell: str, cwd: Path) -> str:
    with Program("-m", "bjoern", "--completion", shell, cwd=cwd) as program:
        code, output, errors = program.end()
    assert (code, errors) == (0, "")
    return output


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


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
    need(shell)
    run = subprocess.run([shell, "-n"], input=script(shell, tmp_path), text=True, capture_output=True)
    assert (run.returncode, run.stderr) == (0, "")


# What is typed behind `bjoern` before the tab, and the arguments that come of it.
TYPED = [
    ("--no-pre", ["--no-preload"]),
    ("--log-level d", ["--log-level", "debug"]),
    ("--log-level=d", ["--log-level=debug"]),
    ("--completion z", ["--completion", "zsh"]),
    ("--pid notes", ["--pid", "notes.txt"]),
    ("--pid=notes", ["--pid=notes.txt"]),
    ("--chdir fol", ["--chdir", "folder/"]),
    ("--access-log two", ["--access-log", "two words.log"]),
    ("he", ["hello"]),
    ("-w 2 he", ["-w", "2", "hello"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("hello.py", "notes.txt", "two words.log"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


class Terminal:
    """A shell at a terminal, in which `bjoern` prints its arguments in angle brackets."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self._terminal, theirs = pty.openpty()
        environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "TERM": "dumb", "PS1": "$ "}
        self._shell = subprocess.Popen(
            command, cwd=cwd, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._said = ""

    def wait(self, text: str) -> None:
        """Until it has said `text`, behind what was waited for before."""
        while text not in self._said:
            ready, _, _ = select.select([self._terminal], [], [], GUARD)
            assert ready, f"it never said {text!r}: {self._said!r}"
            self._said += os.read(self._terminal, 65536).decode(errors="replace")
        self._said = self._said.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *ending: object) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)


COMMANDS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    # A tab that comes at once with what is behind it is a tab for zsh, unless told otherwise.
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit; compinit -u -D; zstyle '*' insert-tab false; setopt no_auto_remove_slash; ",
    ),
}


@pytest.mark.parametrize("shell", COMMANDS)
def test_at_a_terminal(shell: str, folder: Path) -> None:
    need(shell)
    (folder / "completion").write_text(script(shell, folder))
    command, setup = COMMANDS[shell]
    with Terminal(*command, cwd=folder) as terminal:
        terminal.wait("$ ")
        terminal.type(setup + ". ./completion; bjoern() { printf '<%s>' \"$@\"; echo; }; echo rea''dy\n")
        terminal.wait("ready")
        for typed, arguments in TYPED:
            terminal.type(f"bjoern {typed}\t\n")
            terminal.wait("".join(f"<{argument}>" for argument in arguments))


@pytest.mark.parametrize(("typed", "arguments"), TYPED)
def test_fish(folder: Path, typed: str, arguments: list[str]) -> None:
    need("fish")
    program = script("fish", folder) + "complete -C $argv"
    run = subprocess.run(
        ["fish", "--no-config", "-c", program, f"bjoern {typed}"], text=True, capture_output=True, cwd=folder
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert [line.partition("\t")[0] for line in run.stdout.splitlines()] == arguments[-1:]


def test_fish_without_modules(tmp_path: Path) -> None:
    need("fish")
    program = script("fish", tmp_path) + "complete -C 'bjoern he'"
    run = subprocess.run(["fish", "--no-config", "-c", program], text=True, capture_output=True, cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_several_are_offered(folder: Path) -> None:
    need("bash")
    program = f"""
{script("bash", folder)}
COMP_WORDS=(bjoern "$@"); COMP_CWORD=$#
_bjoern
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    for words, offered in [
        (["--worker"], ["--workers", "--worker-timeout"]),
        (["--log-level", ""], ["debug", "info", "warning", "error"]),
        (["--threads", ""], []),
    ]:
        run = subprocess.run(["bash", "-c", program, "bash", *words], text=True, capture_output=True, cwd=folder)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.split() == offered


def test_another_shell(tmp_path: Path) -> None:
    with Program("-m", "bjoern", "--completion", "tcsh", cwd=tmp_path) as program:
        code, output, errors = program.end()
    assert (code, output) == (2, "")
    assert "argument --completion: invalid choice: 'tcsh'" in errors
