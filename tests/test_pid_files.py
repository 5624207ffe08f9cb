"""Pid files: whose they are, and when they are replaced.

How it works: the command is started with `--pid`, beside files that others left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from programs import End, Program
from services import WHO, Service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "module.py").write_text(WHO)
    return tmp_path


def start(folder: Path) -> Service:
    return Service("-p", "pid", "-b", f"unix:{folder}/s", "module:app", cwd=folder)


def test_there_while_it_serves(folder: Path) -> None:
    with start(folder) as service:
        assert (folder / "pid").read_text() == f"{service.pid}\n"
        service.send(signal.SIGHUP)
        service.wait("reloaded:")
        assert (folder / "pid").read_text() == f"{service.pid}\n", "the supervisor stays"
        service.stop()
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == ["module.py"]


def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("text", [f"{dead()}\n", "", "0", "999999999999999999999"])
def test_one_that_was_left_behind_is_replaced(folder: Path, text: str) -> None:
    (folder / "pid").write_text(text)
    with start(folder) as service:
        assert (folder / "pid").read_text() == f"{service.pid}\n"
        service.stop()
    assert not (folder / "pid").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{os.getpid()}\n", f"process {os.getpid()} has it, and runs: stop that one, or choose another pid file"),
        ("Dear diary", "no pid file, but something else: remove it, or choose another one"),
    ],
)
def test_refused(folder: Path, text: str, reason: str) -> None:
    path = folder / "pid"
    path.write_text(text)
    with Program("-m", "bjoern", "-p", "pid", "-b", f"unix:{folder}/s", "module:app", cwd=folder) as program:
        assert program.end() == End(1, "", f"bjoern: error: {path}: {reason}\n")
    assert path.read_text() == text
    assert not (folder / "s").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("pipe")])
def test_what_is_no_file_is_left_alone(folder: Path, make: Callable[[Path], object]) -> None:
    os.mkfifo(folder / "pipe")
    path = folder / "pid"
    make(path)
    before = path.lstat().st_ino
    with Program("-m", "bjoern", "-p", "pid", "-b", f"unix:{folder}/s", "module:app", cwd=folder) as program:
        reason = "not a regular file: choose another pid file"
        assert program.end() == End(1, "", f"bjoern: error: {path}: {reason}\n")
    assert path.lstat().st_ino == before
    assert not (folder / "s").exists()


def test_a_second_service_is_refused(folder: Path) -> None:
    with start(folder) as first:
        with Program("-m", "bjoern", "-p", "pid", "-b", "127.0.0.1:0", "module:app", cwd=folder) as program:
            code, _, errors = program.end()
        assert code == 1
        assert f"process {first.pid} has it, and runs" in errors
        first.stop()


def test_another_ones_is_not_removed(folder: Path) -> None:
    with start(folder) as service:
        (folder / "pid").write_text("1\n")
        service.stop()
    assert (folder / "pid").read_text() == "1\n"


def test_it_cannot_be_written(folder: Path) -> None:
    arguments = ["-p", "nowhere/pid", "-b", f"unix:{folder}/s", "module:app"]
    with Program("-m", "bjoern", *arguments, cwd=folder) as program:
        assert program.end() == End(1, "", f"bjoern: error: {folder}/nowhere/pid: No such file or directory\n")
    assert not (folder / "s").exists(), "nothing is left behind"
