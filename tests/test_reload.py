"""`--reload`: from a saved file to the answer of its code.

How it works: the command serves a module that is edited while it runs; what is said and answered is waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crowd import Crowd
from services import Service, until

APP = """
import os

def app(environ, start_response):
    if environ["PATH_INFO"] == "/later":
        import later
        text = later.TEXT
    elif os.path.exists("templates/page.html"):
        text = TEMPLATE
    else:
        text = "{}"
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]

if os.path.exists("templates/page.html"):
    TEMPLATE = open("templates/page.html").read()
"""


def save(path: Path, text: str) -> None:
    """As most editors do it: another file takes the place."""
    scratch = path.with_suffix(".new")
    scratch.write_text(text)
    scratch.rename(path)


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Service]:
    def begin(*arguments: str, source: str = APP.format("one"), listens: bool = True) -> Service:
        (tmp_path / "module.py").write_text(source)
        # The byte code is written, as everywhere outside of tests: two versions of a file in one second and of one
        # size look the same to it.
        environ = {"PYTHONDONTWRITEBYTECODE": ""}
        bind = ["-b", f"unix:{tmp_path}/s"]
        service = Service("--reload", *bind, *arguments, "module:app", cwd=tmp_path, environ=environ, listens=listens)
        service.addresses = [f"unix:{tmp_path}/s"]
        return service

    return begin


Start = Callable[..., Service]


@pytest.mark.parametrize("edit", [save, write])
def test_a_change_is_served(start: Start, tmp_path: Path, edit: Callable[[Path, str], None]) -> None:
    with start() as service:
        assert service.get() == "one"
        for text in ("two", "six", "ten"):  # of one length
            edit(tmp_path / "module.py", APP.format(text))
            service.wait("module.py has changed: reloading")
            until(lambda: service.get() == text)  # noqa: B023
        service.stop()


def test_nothing_is_lost(start: Start, tmp_path: Path) -> None:
    with start() as service:
        with Crowd(service.address, 8) as crowd:
            save(tmp_path / "module.py", APP.format("two"))
            service.wait("reloaded:")
            crowd.wait_for(100)
            assert crowd.lost == []
        service.stop()


def test_what_is_imported_later(start: Start, tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("TEXT = 'first'")
    with start() as service:
        assert service.get("/later") == "first"

        # When the worker has told of it is not said: so the file is changed until it has.
        numbers = iter(range(1000))

        def is_seen() -> bool:
            save(tmp_path / "later.py", f"TEXT = 'changed'  # {next(numbers)}")
            return any("later.py has changed" in line for line in service.lines)

        until(is_seen)
        service.wait("reloaded:")
        until(lambda: service.get("/later") == "changed")
        service.stop()


def test_a_package_in_a_folder(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").write_text("")
    (tmp_path / "shop/text.py").write_text("TEXT = 'one'")
    source = "import shop.text\n" + APP.replace('"{}"', "shop.text.TEXT")
    with start(source=source) as service:
        assert service.get() == "one"
        save(tmp_path / "shop/text.py", "TEXT = 'two'")
        service.wait("shop/text.py has changed")
        until(lambda: service.get() == "two")
        service.stop()


def test_a_folder_of_templates(start: Start, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/page.html").write_text("<p>one")
    with start("--reload-include", "templates") as service:
        assert service.get() == "<p>one"
        save(tmp_path / "templates/page.html", "<p>two")
        service.wait("templates/page.html has changed")
        until(lambda: service.get() == "<p>two")
        (tmp_path / "templates/more.html").write_text("")
        service.wait("templates/more.html has changed")
        service.wait("reloaded:")
        service.stop()


def test_a_folder_that_is_made_later(start: Start, tmp_path: Path) -> None:
    with start("--reload-include", "templates", listens=False) as service:
        service.wait(f"{tmp_path}/templates is to be watched, but there is no such file or folder yet")
        service.wait("listening on")
        (tmp_path / "made").mkdir()
        (tmp_path / "made/page.html").write_text("<p>one")
        (tmp_path / "made").rename(tmp_path / "templates")
        service.wait("templates/page.html has changed")
        service.wait("reloaded:")
        assert service.get() == "<p>one"
        save(tmp_path / "templates/page.html", "<p>two")
        service.wait("templates/page.html has changed")
        until(lambda: service.get() == "<p>two")
        service.stop()


def test_what_editors_keep_beside_a_file_is_no_change(start: Start, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    with start("--reload-include", "templates") as service:
        for name in (".page.html.swp", "page.html~", ".#page.html", "#page.html#", "4913"):
            (tmp_path / "templates" / name).write_text("")
        (tmp_path / "templates/page.html").write_text("")
        service.wait("reloaded:")
        service.stop()
    assert [line for line in service.lines if "has changed" in line and "templates/page.html has" not in line] == []


def test_an_error_of_syntax_waits_for_the_next_change(start: Start, tmp_path: Path) -> None:
    with start() as service:
        save(tmp_path / "module.py", "def app(:\n")
        service.wait("SyntaxError")
        service.wait("not reloaded")
        assert service.get() == "one", "what could be imported last serves on"
        save(tmp_path / "module.py", APP.format("two"))
        until(lambda: service.get() == "two")
        service.stop()


@pytest.mark.parametrize("more", [[], ["--no-preload"]])
def test_an_error_of_syntax_at_the_start(start: Start, tmp_path: Path, more: list[str]) -> None:
    with start(*more, source="def app(:\n", listens=False) as service:
        service.wait("SyntaxError")
        service.wait("waits for a change")
        save(tmp_path / "module.py", "import helper\n" + APP.format("two"))
        service.wait("No module named 'helper'")
        service.wait("waits for a change")
        (tmp_path / "helper.py").write_text("def broken(:")
        save(tmp_path / "module.py", "import helper  # now\n" + APP.format("two"))
        service.wait("SyntaxError")
        service.wait("waits for a change")
        save(tmp_path / "helper.py", "")
        service.wait("listening on")
        assert service.get() == "two"
        service.stop()


def test_a_program_of_ones_own(tmp_path: Path) -> None:
    text = APP + "\nimport bjoern\nbjoern.run(app, '127.0.0.1', 0, reload=True)\n"
    (tmp_path / "program.py").write_text(text.format("one"))
    with Service(cwd=tmp_path, program=("program.py",)) as service:
        assert service.get() == "one"
        save(tmp_path / "program.py", text.format("two"))
        service.wait("program.py has changed")
        until(lambda: service.get() == "two")
        service.stop()


def test_a_file_that_goes_and_comes_back(start: Start, tmp_path: Path) -> None:
    with start() as service:
        os.unlink(tmp_path / "module.py")
        service.wait("not reloaded")
        (tmp_path / "module.py").write_text(APP.format("two"))
        until(lambda: service.get() == "two")
        service.stop()
