"""Options: values, text forms, and where they come from.

How it works: `Options.resolve` is called with keywords and a made-up environment; what the command and the server do
with the result is in test_cli and test_api.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from bjoern import Options, options

OPTIONS = {option.name: option for option in options.OPTIONS}


def resolve(environ: dict[str, str], **keywords: Any) -> Options:
    return Options.resolve("listen", keywords, environ)


def test_defaults() -> None:
    assert dataclasses.asdict(resolve({})) == {
        "max_head": 65536,
        "max_fields": 100,
        "max_body": 1 << 30,
        "body_buffer": 1 << 20,
        "max_body_memory": 64 << 20,
        "max_body_disk": 16 << 30,
        "max_connections": 0,
        "header_timeout": 30.0,
        "body_timeout": 60.0,
        "write_timeout": 60.0,
        "min_body_rate": 240,
        "min_send_rate": 240,
        "keep_alive": 75.0,
        "graceful_timeout": 30.0,
        "threads": 1,
        "timeout": 0.0,
        "slow_request": 0.0,
        "max_queue": 0,
        "max_parked": 500,
        "require_host": True,
        "date_header": True,
        "server_header": None,
        "forwarded_allow_ips": "",
        "proxy_protocol": False,
        "root_path": "",
        "bind": (),
        "backlog": 1024,
        "reuse_port": False,
        "workers": 0,
        "preload": True,
        "max_requests": 0,
        "max_rss": 0,
        "worker_timeout": 0.0,
        "reload": False,
        "reload_include": (),
        "pid": None,
        "user": None,
        "group": None,
        "umask": None,
        "chdir": None,
        "pythonpath": (),
        "access_log": None,
        "access_log_format": "combined",
        "log_level": "info",
        "log_format": "plain",
    }


def test_argument_goes_before_variable_before_default() -> None:
    assert resolve({"BJOERN_KEEP_ALIVE": "5"}, keep_alive=7).keep_alive == 7
    assert resolve({"BJOERN_KEEP_ALIVE": "5"}).keep_alive == 5
    assert resolve({"BJOERN_KEEP_ALIVE": ""}).keep_alive == 75, "an empty variable counts as unset"


def test_argument_silences_a_malformed_variable() -> None:
    assert resolve({"BJOERN_KEEP_ALIVE": "x"}, keep_alive=7).keep_alive == 7


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_body", "0", 0),
        ("max_body", "65536", 65536),
        ("max_body", "64K", 64 << 10),
        ("max_body", "64k", 64 << 10),
        ("max_body", " 3M ", 3 << 20),
        ("max_body", "2G", 2 << 30),
        ("max_fields", "7", 7),
        ("keep_alive", "0", 0.0),
        ("keep_alive", "0.5", 0.5),
        ("keep_alive", "500ms", 0.5),
        ("keep_alive", "30s", 30.0),
        ("keep_alive", "1.5m", 90.0),
        ("keep_alive", "1h", 3600.0),
        ("date_header", "0", False),
        ("date_header", "No", False),
        ("date_header", "off", False),
        ("date_header", "false", False),
        ("date_header", "1", True),
        ("date_header", "TRUE", True),
        ("server_header", "bjoern", "bjoern"),
        ("server_header", "none", None),
        ("access_log", "none", None),
        ("pid", "none", None),
        ("user", "none", None),
        ("forwarded_allow_ips", "none", ""),
        ("root_path", "none", ""),
        ("max_requests", "1000", 1000),
        ("max_requests", "1000~50", "1000~50"),
    ],
)
def test_text_form(name: str, text: str, value: object) -> None:
    resolved = getattr(resolve({options.variable(OPTIONS[name]): text}), name)
    assert resolved == value
    assert type(resolved) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_body", "12Q"),
        ("max_body", "-1"),
        ("max_body", "1.5M"),
        ("max_body", "\u0661"),  # a digit, but not an ASCII one
        ("max_head", "1"),  # below the least
        ("max_fields", "many"),
        ("max_fields", "0"),
        ("max_fields", "99999999999999999999"),
        ("threads", "0"),
        ("threads", "-1"),
        ("threads", "four"),
        ("keep_alive", "soon"),
        ("keep_alive", "nan"),
        ("keep_alive", "1e3"),
        ("keep_alive", "9999999h"),
        ("header_timeout", "0"),
        ("require_host", "2"),
        ("require_host", "maybe"),
        ("server_header", "a\r\nb"),
        ("max_requests", "1000~"),
        ("max_requests", "~50"),
        ("max_requests", "9999999999"),
        ("access_log", "a\0b"),
        ("max_requests", "-1"),
        ("access_log_format", "%(x)s"),
        ("access_log_format", "plain"),
        ("access_log_format", "%(h)s\n%(s)s"),
    ],
)
def test_malformed_variable_is_named(name: str, text: str) -> None:
    variable = options.variable(OPTIONS[name])
    with pytest.raises(ValueError, match=f"^{variable} must be .*got "):
        resolve({variable: text})


@pytest.mark.parametrize(
    ("name", "text", "bound"),
    [
        ("max_head", "1", "at least 256"),
        ("max_body", "99999999999G", "at most 4294967296G"),
        ("header_timeout", "0", "at least 0.001s"),
        ("keep_alive", "9999999h", "at most 31622400s"),
        ("threads", "0", "at least 1"),
        ("threads", "2147483647", "at most 4096"),
        ("workers", "9999999999", "at most 2147483647"),
    ],
)
def test_a_bound_is_said_as_it_would_be_written(name: str, text: str, bound: str) -> None:
    variable = options.variable(OPTIONS[name])
    with pytest.raises(ValueError) as caught:
        Options.resolve("bjoern", {}, {variable: text}, scope="command")
    assert str(caught.value) == f"{variable} must be {bound}, got {text!r}"


def test_a_keyword_of_the_wrong_type_reads_well() -> None:
    with pytest.raises(TypeError, match=r"^max_body must be an int, in bytes, got '1M'$"):
        resolve({}, max_body="1M")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_body", -1, ValueError),
        ("max_body", 1 << 63, ValueError),
        ("max_body", 1.5, TypeError),
        ("max_body", "1M", TypeError),
        ("max_body", True, TypeError),
        ("max_body", None, TypeError),
        ("max_head", 0, ValueError),
        ("max_connections", -1, ValueError),
        ("threads", 0, ValueError),
        ("threads", -1, ValueError),
        ("threads", True, TypeError),
        ("threads", "x", TypeError),
        ("threads", 2.0, TypeError),
        ("max_queue", -1, ValueError),
        ("timeout", -1, ValueError),
        ("slow_request", "1s", TypeError),
        ("keep_alive", -0.1, ValueError),
        ("keep_alive", math.inf, ValueError),
        ("keep_alive", math.nan, ValueError),
        ("keep_alive", True, TypeError),
        ("keep_alive", "5", TypeError),
        ("write_timeout", 0, ValueError),
        ("date_header", 1, TypeError),
        ("server_header", b"bjoern", TypeError),
        ("server_header", "", ValueError),
        ("server_header", "a\nSet-Cookie: b", ValueError),
        ("server_header", "a\0", ValueError),
        ("server_header", "\u20ac", ValueError),
        ("server_header", " a", ValueError),
        ("max_requests", 1.5, TypeError),
        ("max_requests", "many", ValueError),
        ("bind", "127.0.0.1:80", TypeError),
        ("reload_include", "templates", TypeError),
        ("umask", "022", TypeError),
        ("pid", "", ValueError),
        ("user", " ", ValueError),
        ("access_log", 1, TypeError),
        ("access_log", "", ValueError),
        ("access_log", "a\0b", ValueError),
        ("access_log_format", None, TypeError),
    ],
)
def test_wrong_value_is_named_with_what_is_allowed(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} must be .*, got ") as caught:
        Options(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).endswith(repr(value))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "4", 4),
        ("preload", "0", False),
        ("max_rss", "512M", 512 << 20),
        ("worker_timeout", "1m", 60.0),
        ("umask", "027", 0o27),
        ("bind", "127.0.0.1:80, unix:s", ("127.0.0.1:80", "unix:s")),
        ("reload_include", "templates static/", ("templates", "static/")),
        ("log_level", "debug", "debug"),
        ("log_format", "json", "json"),
        ("user", "33", "33"),
    ],
)
def test_text_form_of_what_is_about_processes(name: str, text: str, value: object) -> None:
    environ = {options.variable(OPTIONS[name]): text}
    resolved = Options.resolve("bjoern", {}, environ, scope="command")
    assert getattr(resolved, name) == value
    assert getattr(resolve(environ), name) == OPTIONS[name].default, "no business of a single server"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("umask", "8", "must be an octal number such as 027, got '8'"),
        ("umask", "1000", "must be from 0 to 777, octal, got 1000"),
        ("log_level", "warn", "must be debug, info, warning or error, got 'warn'; did you mean 'warning'?"),
        ("log_level", "loud", "must be debug, info, warning or error, got 'loud'"),
        ("log_format", "JSON", "must be plain or json, got 'JSON'; did you mean 'json'?"),
        ("workers", "auto", "must be a whole number, got 'auto'"),
        ("max_rss", "1T", "must be a size such as 65536, 64K, 1M or 1G, got '1T'"),
    ],
)
def test_malformed_variable_about_processes(name: str, text: str, reason: str) -> None:
    variable = options.variable(OPTIONS[name])
    with pytest.raises(ValueError) as caught:
        Options.resolve("bjoern", {}, {variable: text}, scope="command")
    assert str(caught.value) == f"{variable} {reason}"


def test_variables_of_other_servers() -> None:
    environ = {"WEB_CONCURRENCY": "3"}
    assert Options.resolve("bjoern", {}, environ, scope="command").workers == 3
    assert Options.resolve("bjoern", {}, {**environ, "BJOERN_WORKERS": "2"}, scope="command").workers == 2
    assert Options.resolve("run", {}, environ, scope="run").workers == 0, "it was not made for several processes"
    with pytest.raises(ValueError, match=r"^WEB_CONCURRENCY must be a whole number"):
        Options.resolve("bjoern", {}, {"WEB_CONCURRENCY": "many"}, scope="command")


@pytest.mark.parametrize(
    ("keywords", "workers"),
    [
        ({}, 0),
        ({"workers": 1}, 1),
        ({"workers": 3, "pid": "p"}, 3),
        ({"pid": "p"}, 1),
        ({"max_requests": 10}, 1),
        ({"max_rss": 1 << 30}, 1),
        ({"worker_timeout": 1}, 1),
        ({"reload": True}, 1),
        ({"user": "0"}, 1),
        ({"umask": 0}, 0),
        ({"log_format": "json"}, 0),
    ],
)
def test_what_needs_a_supervisor(keywords: dict[str, Any], workers: int) -> None:
    assert Options.resolve("run", keywords, {}, scope="run").watched == workers


def test_luck_of_a_number_of_requests() -> None:
    assert options.drawn(0) == 0
    assert options.drawn("100~0") == 100
    assert {options.drawn("100~3") for _ in range(200)} == {100, 101, 102, 103}
    assert {options.drawn(30) for _ in range(200)} == {30, 31, 32, 33}, "a tenth where nothing is said"


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError) as caught:
        resolve({}, foo=1)
    assert str(caught.value) == "listen() got an unexpected keyword argument 'foo'"
    with pytest.raises(TypeError) as caught:
        resolve({}, keepalive=1)
    assert str(caught.value) == "listen() got an unexpected keyword argument 'keepalive'; did you mean 'keep_alive'?"


def test_options_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().keep_alive = 1  # type: ignore[misc]


HAVE_A_TEXT_FORM = [name for name, option in OPTIONS.items() if option.default not in (None, ())]


@pytest.mark.parametrize("name", HAVE_A_TEXT_FORM)
def test_shown_default_reads_as_the_default(name: str) -> None:
    shown = OPTIONS[name].unit.show(OPTIONS[name].default)
    assert options.parse(OPTIONS[name], shown, "shown") == OPTIONS[name].default


def test_readme_has_the_table() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert options.table() in readme, "paste what `python -c 'import bjoern.options as o; print(o.table())'` prints"
