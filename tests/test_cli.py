"""The command: its line, its messages, its exit codes.

How it works: `python -m bjoern` runs in a folder of small modules; what it says and how it ends is compared.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import bjoern
from bjoern import cli
from programs import GUARD, End, Program, connect, get

MODULES = {
    "hello.py": """
import functools

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"app"]

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"application"]

class nested:
    app = staticmethod(app)

def make(greeting="made", *, twice=False):
    def made(environ, start_response):
        start_response("200 OK", [])
        return [greeting.encode() * (2 if twice else 1)]
    return made

def failing():
    raise LookupError("no settings")

def leaving():
    raise SystemExit(3)

def number():
    return 42

text = "text"

@functools.wraps(number)
def wrapped(environ, start_response):
    return app(environ, start_response)
""",
    "waiting.py": """
import os, socket, struct

def app(environ, start_response):
    start_response("200 OK", [])
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
                    return [b"%d" % struct.unpack_from("I", info, 28)]
        except OSError:
            pass
""",
    "wrapping.py": "try:\n    import broken\nexcept RuntimeError as error:\n    raise LookupError('gone') from error\n",
    "only_app.py": "from hello import app",
    "neither.py": "",
    "broken.py": "def fine():\n    pass\n\nraise RuntimeError('boom')\n",
    "chained.py": "try:\n    {}['x']\nexcept KeyError:\n    import broken\n",
    "misspelt.py": "import nowhere_to_be_found\n",
    "syntax.py": "def app(:\n",
    "leaving.py": "import sys\nsys.exit('not me')\n",
    "shop/__init__.py": "",
    "shop/wsgi.py": "from hello import app",
}

ABSTRACT = f"unix:@bjoern-test-{os.getpid()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, source in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


def command(folder: Path, *arguments: str, **keywords: Any) -> Program:
    return Program("-m", "bjoern", *arguments, cwd=folder, **keywords)


def finished(folder: Path, *arguments: str, **keywords: Any) -> End:
    with command(folder, *arguments, **keywords) as program:
        return program.end()


def body(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


def addresses_of(line: str) -> list[str]:
    match = re.fullmatch(r"bjoern \S+ listening on (.+) \(pid \d+, .*\)", line)
    assert match, line
    return match[1].split(", ")


# Serving


def test_line_service_and_interrupt(folder: Path) -> None:
    with command(folder, "-b", "127.0.0.1:0", "--threads", "1", "hello:app") as program:
        line = program.announced()
        (address,) = addresses_of(line)
        python = f"{platform.python_implementation()} {platform.python_version()}"
        assert line == (
            f"bjoern {bjoern.__version__} listening on {address} (pid {program.process.pid}, {python}, 1 thread)"
        )
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", address)
        assert get(address).startswith(b"HTTP/1.1 200 OK\r\n")
        program.send(signal.SIGINT)
        assert program.end() == End(130, "", "")


def test_sigterm_kills(folder: Path) -> None:
    with command(folder, "-b", "unix:s", "hello:app") as program:
        assert addresses_of(program.announced()) == ["unix:s"]
        program.send(signal.SIGTERM)
        assert program.end() == End(-signal.SIGTERM, "", "")
    assert not (folder / "s").exists()


def test_installed_command_is_the_same(folder: Path) -> None:
    script = Path(sys.executable).with_name("bjoern")
    if not script.exists():
        pytest.skip("the package is not installed beside this interpreter, so there is no command")
    assert "bjoern.cli" in script.read_text()


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("hello", b"application"),
        ("only_app", b"app"),
        ("hello:app", b"app"),
        ("hello:nested.app", b"app"),
        ("hello:wrapped", b"app"),
        ("hello:make()", b"made"),
        ("hello:make('x', twice=True)", b"xx"),
        ("shop.wsgi:app", b"app"),
    ],
)
def test_application(folder: Path, target: str, answer: bytes) -> None:
    with command(folder, "--bind=127.0.0.1:0", target) as program:
        assert body(get(addresses_of(program.announced())[0])) == answer


def test_working_directory_goes_first(folder: Path) -> None:
    """Also for a script, whose own folder Python puts first."""
    other = folder / "elsewhere"
    other.mkdir()
    (other / "hello.py").write_text("raise RuntimeError('the wrong one')")
    (other / "script.py").write_text("from bjoern.cli import main\nmain()")
    with Program(str(other / "script.py"), "-b", "127.0.0.1:0", "hello:app", cwd=folder) as program:
        assert body(get(addresses_of(program.announced())[0])) == b"app"


# Where to listen


def test_several_addresses(folder: Path) -> None:
    with command(folder, "-b", "127.0.0.1:0", "--bind", ABSTRACT, "-b", f"unix:{folder}/s", "hello:app") as program:
        found = addresses_of(program.announced())
        assert found[1:] == [ABSTRACT, f"unix:{folder}/s"]
        for address in found:
            assert body(get(address)) == b"app"


LOOPBACK, EVERYWHERE = r"http://127\.0\.0\.1:\d{4,}", r"http://0\.0\.0\.0:\d{4,}"


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["--host", "127.0.0.1", "--port", "0"], {}, LOOPBACK),
        (["--port", "0"], {}, LOOPBACK),
        (["--port", "0"], {"PORT": "1"}, LOOPBACK),
        (["--port", "0"], {"BJOERN_BIND": "unix:s"}, LOOPBACK),
        (["--host", "0.0.0.0", "--port", "0"], {}, EVERYWHERE),
        (["--host", "127.0.0.1"], {"PORT": "0"}, LOOPBACK),
        ([], {"PORT": "0"}, EVERYWHERE),
        ([], {"BJOERN_BIND": "127.0.0.1:0"}, LOOPBACK),
        ([], {"BJOERN_BIND": "127.0.0.1:0, unix:s unix:t"}, f"{LOOPBACK}, unix:s, unix:t"),
        ([], {"BJOERN_BIND": "127.0.0.1:0", "PORT": "1"}, LOOPBACK),
        (["-b", "127.0.0.1:0"], {"BJOERN_BIND": "unix:s", "PORT": "1"}, LOOPBACK),
        (["--port", "0"], {"PORT": " "}, LOOPBACK),
        ([], {"PORT": " 0 "}, EVERYWHERE),
    ],
)
def test_where_to_listen(folder: Path, arguments: list[str], environ: dict[str, str], expected: str) -> None:
    with command(folder, *arguments, "hello:app", environ=environ) as program:
        found = ", ".join(addresses_of(program.announced()))
    assert re.fullmatch(expected, found)
    assert not found.endswith(":8000")


def test_default_address(folder: Path) -> None:
    """8000 may be taken; the message says so with the address."""
    with command(folder, "hello:app") as program:
        assert "127.0.0.1:8000" in program.announced()


def test_inherited_descriptor(folder: Path) -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as sock:
        number = sock.fileno()
        with command(folder, "-b", f"fd://{number}", "hello:app", fds=(number,)) as program:
            assert addresses_of(program.announced()) == [f"http://127.0.0.1:{sock.getsockname()[1]}"]
            assert body(get(sock.getsockname()[1])) == b"app"


def test_reuse_port(folder: Path) -> None:
    with command(folder, "-b", "127.0.0.1:0", "--reuse-port", "hello:app") as first:
        (address,) = addresses_of(first.announced())
        with command(folder, "-b", address[len("http://") :], "--reuse-port", "hello:app") as second:
            assert addresses_of(second.announced()) == [address]


# Options


def test_options_reach_the_server(folder: Path) -> None:
    arguments = ["--no-date-header", "--server-header", "flag", "-b", "127.0.0.1:0", "hello:app"]
    with command(folder, *arguments, environ={"BJOERN_SERVER_HEADER": "variable"}) as program:
        head = get(addresses_of(program.announced())[0]).lower()
    assert b"\r\nserver: flag\r\n" in head
    assert b"\r\ndate: " not in head


def test_backlog(folder: Path) -> None:
    with command(folder, "--backlog", "17", "-b", "127.0.0.1:0", "waiting:app") as program:
        assert body(get(addresses_of(program.announced())[0])) == b"17"


def test_short_flags_are_gunicorns(folder: Path) -> None:
    arguments = ["-w", "1", "-t", "5", "-p", "pid", "-m", "077", "-b", f"unix:{folder}/s", "--threads", "1"]
    with command(folder, *arguments, "hello:app") as program:
        assert program.announced().endswith(", 1 worker of 1 thread)")
        assert (folder / "pid").exists()
        assert (folder / "s").stat().st_mode & 0o777 == 0o700
        program.send(signal.SIGTERM)
        assert program.end().code == -signal.SIGTERM


@pytest.mark.parametrize(
    "arguments",
    [
        ["--access-log", "hello:app"],
        ["hello:app", "--access-log"],
        ["--access-log=-", "hello:app"],
        ["--access-log", "--workers", "1", "hello:app"],
        ["--access-log", "hello:app", "--workers", "1"],
    ],
)
def test_access_log_without_a_file(folder: Path, arguments: list[str]) -> None:
    with command(folder, "-b", f"unix:{folder}/s", *arguments) as program:
        program.announced()
        get(f"unix:{folder}/s", "/logged")
        assert '"GET /logged HTTP/1.1" 200' in program.hear()


@pytest.mark.parametrize("arguments", [["--access-log", "log"], ["--access-log=log"]])
def test_access_log_in_a_file(folder: Path, arguments: list[str]) -> None:
    with command(folder, "-b", f"unix:{folder}/s", *arguments, "hello:app") as program:
        program.announced()
        get(f"unix:{folder}/s", "/logged")
        program.send(signal.SIGTERM)
        assert program.end().output == ""
    assert '"GET /logged HTTP/1.1" 200' in (folder / "log").read_text()


def test_the_access_log_is_reopened(folder: Path) -> None:
    (folder / "logs").mkdir()
    log = folder / "logs/log"
    with command(folder, "-b", f"unix:{folder}/s", "--access-log", "logs/log", "hello:app") as program:
        program.announced()
        get(f"unix:{folder}/s", "/first")
        log.rename(folder / "old")
        program.send(signal.SIGUSR1)
        while not log.exists():
            get(f"unix:{folder}/s", "/any")
        (folder / "logs").rename(folder / "moved")
        program.send(signal.SIGUSR1)
        line = program.announced()
        assert line.startswith(f"bjoern: error: {log}: the access log cannot be opened (No such file or directory)")
        assert line.endswith("; the one before is written to")
        get(f"unix:{folder}/s", "/last")
        program.send(signal.SIGTERM)
        assert program.end().code == -signal.SIGTERM
    assert "/first" in (folder / "old").read_text()
    assert "/last" in (folder / "moved/log").read_text()


def test_where_modules_are_searched(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/found.py").write_text("from hello import app")
    arguments = ["--chdir", "shop", "--pythonpath", "..", "--pythonpath", "../lib", "-b", "unix:s"]
    with command(folder, *arguments, "found:app") as program:
        program.announced()
        assert body(get(f"unix:{folder}/shop/s")) == b"app"


def test_chdir_to_nowhere(folder: Path) -> None:
    message = "cannot change to nowhere: No such file or directory"
    assert finished(folder, "--chdir", "nowhere", "hello:app") == End(1, "", f"bjoern: error: {message}\n")


def test_check_only_checks(folder: Path) -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert finished(folder, "--check", "-b", address, "--max-body", "2G", "hello:app") == End(0, "", "")
    assert finished(folder, "--check", "hello:nothing").code == 4
    assert finished(folder, "--check", "--max-body=x", "hello:app").code == 2


def test_version(folder: Path) -> None:
    assert finished(folder, "--version") == End(0, f"bjoern {bjoern.__version__}\n", "")


def test_help(folder: Path) -> None:
    code, output, _ = finished(folder, "--help", environ={"COLUMNS": "200"})
    assert code == 0
    assert output.startswith("usage: bjoern [OPTIONS] MODULE:APP\n")
    assert max(map(len, output.splitlines())) < 80
    flat = " ".join(output.split())
    for field in bjoern.Options.__dataclass_fields__.values():
        assert f"--{field.name.replace('_', '-')}" in flat
        assert f"{field.metadata['help']} (default: {field.metadata['unit'].show(field.default)})" in flat
    titles = re.findall(r"^(\S.*):$", output, re.MULTILINE)
    assert titles == ["positional arguments", "options", *cli.GROUPS]
    for words in (
        "SIZE is 65536, 64K, 512M or 1G; TIME is 30, 0.5, 500ms, 30s or 5m.",
        "PORT, WEB_CONCURRENCY (for --workers), FORWARDED_ALLOW_IPS and systemd's LISTEN_FDS",
        "--no-date-header",
        "--max-body SIZE",
        "--keep-alive TIME",
        "(default: 127.0.0.1:8000, or 0.0.0.0:$PORT",
    ):
        assert words in flat


# Messages. One line each, unless a module raised.


NO_USER = "there is no user 'nobody-there'; give the name or number of one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: MODULE:APP (see bjoern --help)"),
        (["hello:app", "b"], "unknown argument b (see bjoern --help)"),
        (["hello:app", "more"], "unknown argument more (see bjoern --help)"),
        (
            ["--keepalive=5", "hello:app"],
            "unknown argument --keepalive=5; did you mean --keep-alive? (see bjoern --help)",
        ),
        (["--keep", "5", "hello:app"], "unknown argument --keep; did you mean --keep-alive? (see bjoern --help)"),
        (["--workers", "hello:app"], "--workers must be a whole number, got 'hello:app'"),
        (["-p", "hello:app"], "the following arguments are required: MODULE:APP (see bjoern --help)"),
        (["--access-log", "log/access"], "the following arguments are required: MODULE:APP (see bjoern --help)"),
        (["--access-log=", "hello:app"], "--access-log must be a path, or - for standard output, got ''"),
        (["--check", "-u", "nobody-there", "hello:app"], f"user: {NO_USER}"),
        (
            ["--reload=1", "hello:app"],
            "argument --reload/--no-reload: it takes no value, got '1' (see bjoern --help)",
        ),
        (
            ["-b", "127.0.0.1:80,127.0.0.1:81", "hello:app"],
            "--bind: '127.0.0.1:80,127.0.0.1:81' is not an address: "
            "use HOST:PORT, [IPV6]:PORT, unix:/PATH, unix:@NAME or fd://N",
        ),
        (["--bind"], "argument -b/--bind: expected one argument (see bjoern --help)"),
        (["--backlog", "x", "hello:app"], "--backlog must be a whole number, got 'x'"),
        (
            ["--keep-alive", "soon", "hello:app"],
            "--keep-alive must be a duration such as 30, 0.5, 500ms, 30s or 5m, got 'soon'",
        ),
        (
            ["--keep-alive", "-1", "hello:app"],
            "--keep-alive must be a duration such as 30, 0.5, 500ms, 30s or 5m, got '-1'",
        ),
        (
            ["--log-level", "warn", "hello:app"],
            "--log-level must be debug, info, warning or error, got 'warn'; did you mean 'warning'?",
        ),
        (["--umask", "9", "hello:app"], "--umask must be an octal number such as 027, got '9'"),
        (
            ["--max-requests", "10-20", "hello:app"],
            "--max-requests must be a number of requests such as 1000, or 1000~50 for up to 50 more, got '10-20'",
        ),
        (
            ["--access-logfile", "-", "hello:app"],
            "unknown argument --access-logfile; did you mean --access-log? (see bjoern --help)",
        ),
        (["--max-body", "1T", "hello:app"], "--max-body must be a size such as 65536, 64K, 1M or 1G, got '1T'"),
        (["--max-fields", "0", "hello:app"], "--max-fields must be at least 1, got '0'"),
        (
            ["-b", "8000", "hello:app"],
            "--bind: '8000' is not an address: use HOST:PORT, [IPV6]:PORT, unix:/PATH, unix:@NAME or fd://N",
        ),
        (["-b", "::1:80", "hello:app"], "--bind: '::1:80' is not an address: write IPv6 in brackets, as in [::1]:80"),
        (["--port", "http", "hello:app"], "--port: port must be a number from 0 to 65535, got 'http'"),
        (["--port", "65536", "hello:app"], "--port: port must be a number from 0 to 65535, got 65536"),
        (
            ["--port", "1", "-b", "unix:s", "hello:app"],
            "--bind and --host or --port exclude each other; put both into --bind HOST:PORT",
        ),
    ],
)
def test_usage(folder: Path, arguments: list[str], message: str) -> None:
    assert finished(folder, *arguments) == End(2, "", f"bjoern: error: {message}\n")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"BJOERN_KEEP_ALIVE": "soon"},
            "BJOERN_KEEP_ALIVE must be a duration such as 30, 0.5, 500ms, 30s or 5m, got 'soon'",
        ),
        ({"BJOERN_REQUIRE_HOST": "2"}, "BJOERN_REQUIRE_HOST must be 1 or 0 (or true/false, yes/no, on/off), got '2'"),
        ({"PORT": "http"}, "PORT: port must be a number from 0 to 65535, got 'http'"),
        ({"BJOERN_BIND": "x:1,unix:"}, "BJOERN_BIND: 'unix:' is not an address: use unix:/PATH or unix:@NAME"),
    ],
)
def test_malformed_variable(folder: Path, environ: dict[str, str], message: str) -> None:
    assert finished(folder, "hello:app", environ=environ) == End(2, "", f"bjoern: error: {message}\n")


def test_unknown_host(folder: Path) -> None:
    code, _, errors = finished(folder, "-b", "nowhere.invalid:80", "hello:app")
    assert code == 2
    assert re.fullmatch(
        r"bjoern: error: cannot resolve host 'nowhere\.invalid': .*; check its spelling, or use an IP address\n", errors
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("hello:ap", "module 'hello' has no attribute 'ap'; did you mean 'app'?"),
        ("hello:zzz", "module 'hello' has no attribute 'zzz'; check the name behind the colon"),
        ("hello:nested.ap", "'nested' in 'hello' has no attribute 'ap'; did you mean 'app'?"),
        ("neither", "module 'neither' has neither 'application' nor 'app'; name the application: neither:NAME"),
        ("hello:text", "'hello:text' is of type str and cannot be called; name a WSGI application"),
        ("hello:number()", "'hello:number()' is of type int and cannot be called; name a WSGI application"),
        ("hello:text()", "'text' in 'hello' cannot be called; leave out the parentheses"),
        (
            "hello:number",
            "'hello:number' takes no (environ, start_response); if it makes the application, use 'hello:number()'",
        ),
        ("hello:a b", "'a b' is no name and no call with literal arguments: use app or make('x', y=1)"),
        ("hello:make(app)", "'make(app)' is no name and no call with literal arguments: use app or make('x', y=1)"),
        ("hello:make(**{})", "'make(**{})' is no name and no call with literal arguments: use app or make('x', y=1)"),
        ("hello.py", "'hello.py' is a file, not a module: use hello:app"),
        ("hello.py:make()", "'hello.py' is a file, not a module: use hello:make()"),
        ("shop/wsgi.py", "'shop/wsgi.py' is a file, not a module: use shop.wsgi:app"),
        ("../hello.py", "'../hello.py' is a file, not a module: use hello:app, in the directory .."),
        ("./shop/wsgi.py:app", "'./shop/wsgi.py' is a file, not a module: use shop.wsgi:app"),
        ("he llo:app", "'he llo' is not a module name: use MODULE:APP, for instance hello:app"),
        (":app", "'' is not a module name: use MODULE:APP, for instance hello:app"),
    ],
)
def test_application_that_cannot_be_loaded(folder: Path, target: str, message: str) -> None:
    assert finished(folder, target) == End(4, "", f"bjoern: error: {message}\n")


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("nowhere", "'nowhere'"),
        ("shop.nowhere:app", "'shop.nowhere'"),
        ("hello.nowhere", "'hello.nowhere'; 'hello' is not a package"),
    ],
)
def test_module_that_does_not_exist(folder: Path, target: str, missing: str) -> None:
    message = f"No module named {missing} in {folder} or on sys.path; check the name, or change directory"
    assert finished(folder, target) == End(4, "", f"bjoern: error: {message}\n")


@pytest.mark.parametrize(
    ("target", "shown", "message"),
    [
        ("broken", ["broken.py", "raise RuntimeError('boom')"], "importing 'broken' raised RuntimeError: boom"),
        ("chained", ["chained.py", "KeyError: 'x'", "broken.py"], "importing 'chained' raised RuntimeError: boom"),
        ("wrapping", ["broken.py", "RuntimeError: boom", "gone"], "importing 'wrapping' raised LookupError: gone"),
        ("misspelt", ["misspelt.py", "import nowhere"], "importing 'misspelt' raised ModuleNotFoundError: No module "),
        ("syntax", ["syntax.py", "def app(:"], "importing 'syntax' raised SyntaxError: "),
        ("leaving", ["leaving.py", "sys.exit('not me')"], "importing 'leaving' raised SystemExit: not me"),
        ("hello:failing()", ["hello.py", "no settings"], "calling 'failing()' in 'hello' raised LookupError: no set"),
        ("hello:leaving()", ["hello.py", "raise SystemExit(3)"], "calling 'leaving()' in 'hello' raised SystemExit: 3"),
        ("hello:make(1, 2, 3)", ["TypeError"], "calling 'make(1, 2, 3)' in 'hello' raised TypeError: "),
    ],
)
def test_module_that_raises(folder: Path, target: str, shown: list[str], message: str) -> None:
    code, output, errors = finished(folder, target)
    trace, _, last = errors.removesuffix("\n").rpartition("\n")
    assert (code, output) == (4, "")
    assert last.startswith(f"bjoern: error: {message}")
    assert last.endswith("; the traceback above says where")
    for words in shown:
        assert words in trace
    assert "importlib" not in trace, "only the user's frames"
    assert "loader.py" not in trace


def test_port_in_use(folder: Path) -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        message = f"address already in use: 127.0.0.1:{port} (another server? try --bind 127.0.0.1:{port % 65535 + 1})"
        expected = End(1, "", f"bjoern: error: {message}\n")
        assert finished(folder, "-b", f"127.0.0.1:{port}", "hello:app") == expected
        assert finished(folder, "-b", "unix:s", "-b", f"127.0.0.1:{port}", "hello:app") == expected
        assert not (folder / "s").exists(), "all addresses or none"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("unix:hello.py", "a file that is not a socket is in the way; move it, or choose another path"),
        ("unix:live", "another server is listening there; stop it, or choose another path"),
        ("unix:nowhere/s", "its directory does not exist; make it first"),
        ("fd://77", "not a socket that listens; the parent process must pass one"),
        ("192.0.2.1:80", "this machine does not have the address; use one of its own, or 0.0.0.0 for all"),
    ],
)
def test_address_that_cannot_be_bound(folder: Path, address: str, message: str) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(os.path.relpath(folder / "live"))
        live.listen()
        assert finished(folder, "-b", address, "hello:app") == End(1, "", f"bjoern: error: {address}: {message}\n")


def test_interrupt_while_importing(folder: Path) -> None:
    (folder / "slow.py").write_text("print('importing', flush=True)\nimport sys\nsys.stdin.readline()\n")
    with command(folder, "slow:app") as program:
        assert program.hear() == "importing"
        program.wait_until_asleep()
        program.send(signal.SIGINT)
        assert program.end() == End(130, "", "")


def test_system_exit_of_the_application_is_the_exit_code(folder: Path) -> None:
    (folder / "ending.py").write_text("def app(environ, start_response):\n    raise SystemExit(5)\n")
    with command(folder, "-b", "127.0.0.1:0", "ending:app") as program:
        with connect(addresses_of(program.announced())[0]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            client.settimeout(GUARD)
            while client.recv(1 << 16):
                pass
        assert program.end().code == 5


# Examples


@pytest.mark.parametrize("name", ["hello", "flask_app", "django_app", "streaming", "upload"])
def test_example(name: str) -> None:
    if name in ("flask_app", "django_app"):
        pytest.importorskip(name.partition("_")[0], reason="the framework is not installed")
    with Program(
        "-m", "bjoern", "-b", "127.0.0.1:0", f"examples.{name}:app", cwd=Path(__file__).parent.parent
    ) as program:
        address = addresses_of(program.announced())[0]
        with connect(address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            response = b""
            while block := client.recv(1 << 16):
                response += block
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        expected = {"streaming": b"1000: 1000000\n", "upload": b'<input type="file" required>'}
        assert expected.get(name, b"Hello") in response
