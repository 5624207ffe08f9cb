"""Runs the test scripts of bjoern 3.2.2, unchanged, against the bjoern that is installed here.

Knows: PyPI by way of pip, the scripts by name, what each must answer.   Must not know: bjoern 4 beyond what they use.
They come out of the source distribution at run time: none of their text is in this repository. Most are servers
without a client, so each is driven here. Their ports are fixed (8080 and 9000): nothing else may listen there.

    python tests/compat/run.py [--require] [--python PYTHON] [SCRIPT ...]

Prints a line a script, then `N passed, N failed`; exits with 1 where one failed. Where the source distribution cannot
be had it says so, and exits with 0, or with 1 after --require.
"""

from __future__ import annotations

import argparse
import ast
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RELEASE = "3.2.2"
DEADLINE = 60.0  # seconds after which a script counts as stuck
PORTS = (8080, 9000)

# What the scripts need from before version 4: they send HTTP/1.1 without Host, and compare bytes without Date.
ENVIRONMENT = {"BJOERN_REQUIRE_HOST": "0", "BJOERN_DATE_HEADER": "0", "PYTHONUNBUFFERED": "1"}

ERROR = b"500 Internal Server Error\n"

# Python 2 in the scripts, and what it is in Python 3; and what they assert that is different by decision. Nothing else
# is changed.
TRANSLATIONS = {
    "pure-req.py": [("raw_input(", "input(")],
    "slow_client.py": [(r"s\.send\((.*)\)", r"s.send((\1).encode())")],
    "keep-alive-behaviour.py": [
        ("!= 500 or body:", f"!= 500 or body != {ERROR!r}:"),
        # HTTP/1.0, no error, no Content-Length, keep-alive asked for: not chunked, and now kept
        ("(       0,      0,          0,              1,          0,          0),", "(0, 0, 0, 1, 0, 1),"),
    ],
}

# Scripts whose old outcome cannot be kept, and what is checked in its place.
DIFFERENT = {
    "headers.py": "sends a field named 'Ü', which is not a token (RFC 9110 5.6.2): 500 instead of broken HTTP",
    "all-kinds-of-errors.py": "an error has its status as content",
    "keep-alive-behaviour.py": "an error has its status as content; a list's length is known, so HTTP/1.0 can be kept",
    "not-callable.py": "an application that cannot be called is refused at once with TypeError, not request by request",
    "reuse_port.py": "asserts a share of 80 to 120 % for each process, which is luck: here, that each one answers",
    "interrupt-during-request.py": "its client may connect before its server listens: run until it does not",
    "filewrapper.py pseudo-file": "never ends its body: it is cut where its Content-Length says",
}


class Failed(Exception):
    """A script did not do what it did with bjoern 3."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


class Scripts:
    """The unpacked source distribution, and the interpreter that runs its scripts."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python = root, python
        self.tests = root / "tests"
        for name, changes in TRANSLATIONS.items():
            text = (self.tests / name).read_text()
            for old, new in changes:
                text = re.sub(old, new, text) if "\\" in old else text.replace(old, new)
            (self.tests / name).write_text(text)

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, str(self.tests / name), *arguments],
            cwd=self.root,
            env={**os.environ, **ENVIRONMENT, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, name: str, *arguments: str, answers: str = "", code: int = 0) -> str:
        """Runs a script to its end; what it printed."""
        process = self.start(name, *arguments)
        try:
            out, err = process.communicate(answers, DEADLINE)
        except subprocess.TimeoutExpired:
            raise Failed(f"it did not end:\n{end(process)}") from None
        check(process.returncode == code, f"exit {process.returncode}, not {code}:\n{out}{err}")
        return out + err

    @contextmanager
    def serving(
        self, name: str, *arguments: str, unix: str = "", **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """A script that is a server, from its first answer to its end by SIGINT."""
        process = self.start(name, *arguments, **environment)
        try:
            wait_for_listener(process, unix)
            yield process
            check(process.poll() is None, f"the server ended by itself: exit {process.returncode}")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=DEADLINE)
            check(process.returncode == -signal.SIGINT, f"exit {process.returncode} after SIGINT:\n{out}{err}")
            check("KeyboardInterrupt" in err, f"no KeyboardInterrupt left run():\n{err}")
        except (Failed, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            raise Failed(f"{type(error).__name__}: {error}\n{end(process)}") from error
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> str:
    """Ends one process, where it has not ended; what it had still to say."""
    if process.poll() is None:
        process.kill()
    try:
        return "".join(process.communicate(timeout=DEADLINE))
    except ValueError:  # it was read to its end before
        return ""


def connects(port: int, unix: str = "") -> bool:
    family, address = (socket.AF_UNIX, unix) if unix else (socket.AF_INET, ("127.0.0.1", port))
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        return attempt.connect_ex(address) == 0


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for something of which another process sends no word."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        check(time.monotonic() < deadline, f"{what}: not within {DEADLINE:.0f} s")
        select.select([], [], [], 0.02)


def wait_for_listener(process: subprocess.Popen[str], unix: str = "") -> None:
    def listens() -> bool:
        check(process.poll() is None, f"the server ended by itself: exit {process.returncode}")
        return connects(PORTS[0], unix)

    until(listens, "a listening server")


def get(path: str = "/", sock: socket.socket | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", PORTS[0], timeout=DEADLINE)
    if sock is not None:
        connection.sock = sock
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def expect(got: tuple[int, bytes], *wanted: tuple[int, bytes]) -> None:
    check(got in wanted, f"answered {got[0]} and {len(got[1])} bytes {got[1][:80]!r}")


# A function a script -------------------------------------------------------------------------------------------------

HELLO = [(200, body) for body in (b"helloworld", b"hello", b"Hello World\n", b"hello there ... \n")]


def hello(scripts: Scripts) -> None:
    with scripts.serving("hello.py"):
        for _ in range(40):
            expect(get(), *HELLO)


def hello_unix(scripts: Scripts) -> None:
    path = scripts.root / "hello_unix"
    with scripts.serving("hello_unix.py", unix=str(path)):
        for _ in range(10):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            expect(get(sock=sock), *HELLO)
    check(not path.exists(), "the socket's file is still there")


def listen(scripts: Scripts) -> None:
    with scripts.serving("listen.py"):
        expect(get(), (200, b"Hello world"))


def empty(scripts: Scripts) -> None:
    with scripts.serving("empty.py"):
        expect(get(), (200, b""))


def huge(scripts: Scripts) -> None:
    with scripts.serving("huge.py"):
        expect(get(), (200, b"a" * 1024 * 1024))


def headers(scripts: Scripts) -> None:
    with scripts.serving("headers.py"):
        expect(get(), (500, ERROR))


def all_kinds_of_errors(scripts: Scripts) -> None:
    with scripts.serving("all-kinds-of-errors.py"):
        for _ in range(30):
            expect(get(), (500, ERROR))


def exc_info_reference(scripts: Scripts) -> None:
    with scripts.serving("test_exc_info_reference.py"):
        for _ in range(10):
            expect(get(), (500, b"hello"))


def not_callable(scripts: Scripts) -> None:
    said = scripts.finish("not-callable.py", code=1)
    check("TypeError" in said, said)


def file(scripts: Scripts) -> None:
    made = {name: Path(f"/tmp/bjoern.{name}.tmp") for name in ("small", "big")}
    try:
        with scripts.serving("file.py"):
            for name, path in made.items():
                expect(get(f"/{name}"), (200, path.read_bytes()))
    finally:
        for path in made.values():
            path.unlink(missing_ok=True)


def filewrapper(kind: str) -> Callable[[Scripts], None]:
    def drive(scripts: Scripts) -> None:
        content = (scripts.root / "README.rst").read_bytes()
        body = (b"ab" * len(content))[: len(content)] if kind == "pseudo-file" else content
        with scripts.serving("filewrapper.py", "README.rst", kind):
            for _ in range(3):
                expect(get(), (200, body))

    return drive


def fork(scripts: Scripts) -> None:
    with_workers = scripts.start("fork.py")
    workers = set()
    try:
        wait_for_listener(with_workers)
        for _ in range(100):
            status, body = get()
            check(status == 200 and body.startswith(b"Hello world from worker "), repr(body))
            workers.add(int(body.split()[-1]))
        check(with_workers.pid not in workers, "the parent answered")
        with_workers.send_signal(signal.SIGINT)
        with_workers.wait(DEADLINE)
        until(lambda: not connects(PORTS[0]), "the end of all workers")
    except BaseException:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        raise
    finally:
        end(with_workers)


def reuse_port(scripts: Scripts) -> None:
    processes = [scripts.start("reuse_port.py", "app") for _ in range(3)]
    answered: set[int] = set()
    try:
        wait_for_listener(processes[0])

        def all_answered() -> bool:
            answered.add(int(get()[1].split()[-1]))
            return len(answered) == len(processes)

        until(all_answered, "an answer of each process")
        check(answered == {process.pid for process in processes}, f"answered: {answered}")
        for process in processes:
            process.terminate()
            check(process.wait(DEADLINE) == -signal.SIGTERM, f"exit {process.returncode} after SIGTERM")
    finally:
        for process in processes:
            end(process)


def slow(scripts: Scripts) -> None:
    with scripts.serving("slow_server.py"):
        said = scripts.finish("slow_client.py")
        check("release" in said and "acquire" in said and said.count(" took ") == 2, said)
        expect(get("/tuple"), (200, b"Hello, it's me, Bob!"))
        expect(get("/missing"), (404, b"URL /missing not found"))


def pure_req(scripts: Scripts) -> None:
    """Ten raw requests. The idle time ends those whose answer leaves the connection open."""
    with scripts.serving("listen.py", BJOERN_KEEP_ALIVE="0.5"):
        for number in range(10):
            out = scripts.finish("pure-req.py", str(number), answers="n\n")
            wire = b"".join(ast.literal_eval(line) for line in re.findall(r"b(?:'.*?'|\".*?\")(?=new|\n|$)", out))
            status, body = (b"400", b"") if number == 4 else (b"200", b"Hello world")
            check(wire.startswith(b"HTTP/1.1 " + status) and body in wire, f"message {number}: {wire!r}")


def keep_alive_behaviour(scripts: Scripts) -> None:
    check("--- SUCCESS! ---" in scripts.finish("keep-alive-behaviour.py"), "no success")


def interrupt_during_request(scripts: Scripts) -> None:
    for _ in range(50):
        process = scripts.start("interrupt-during-request.py")
        guard = threading.Timer(DEADLINE, process.kill)
        guard.start()
        assert process.stdout and process.stderr
        try:
            if not any("ConnectionRefusedError" in line for line in process.stderr):
                check(process.wait(DEADLINE) == 0, f"exit {process.returncode}")
                check("chunk1chunk2chunk3" in process.stdout.read(), "the answer was cut short")
                return
        finally:
            guard.cancel()
            end(process)
    raise Failed("its client was always earlier than its server")


def wsgi_compliance(scripts: Scripts) -> None:
    check("Test successful" in scripts.finish("test_wsgi_compliance.py"), "no success")


KINDS = ("callable-iterator", "xreadlines", "filewrapper", "filewrapper2", "pseudo-file")
CHECKS: dict[str, Callable[[Scripts], None]] = {
    "hello.py": hello,
    "hello_unix.py": hello_unix,
    "listen.py": listen,
    "empty.py": empty,
    "huge.py": huge,
    "headers.py": headers,
    "all-kinds-of-errors.py": all_kinds_of_errors,
    "test_exc_info_reference.py": exc_info_reference,
    "not-callable.py": not_callable,
    "file.py": file,
    **{f"filewrapper.py {kind}": filewrapper(kind) for kind in KINDS},
    "fork.py": fork,
    "reuse_port.py": reuse_port,
    "slow_server.py, slow_client.py": slow,
    "pure-req.py": pure_req,
    "keep-alive-behaviour.py": keep_alive_behaviour,
    "interrupt-during-request.py": interrupt_during_request,
    "test_wsgi_compliance.py": wsgi_compliance,
}


def download(into: Path) -> Path:
    """The unpacked source distribution. pip only asks it for its metadata, which needs no compiler and no libev."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-binary", "bjoern", "--dest", str(into), f"bjoern=={RELEASE}"],
        capture_output=True,
        text=True,
        timeout=5 * DEADLINE,
        check=False,
    )
    check(done.returncode == 0, done.stderr.strip() or f"pip: exit {done.returncode}")
    (archive,) = into.glob("bjoern-*.tar.gz")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(into, filter="data")
        else:  # CPython before 3.10.12 and 3.11.4
            tar.extractall(into)
    return into / f"bjoern-{RELEASE}"


def main() -> int:
    parser = argparse.ArgumentParser(description="bjoern 3's own test scripts against the installed bjoern")
    parser.add_argument("--require", action="store_true", help="fail where the scripts cannot be downloaded")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the scripts")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="only those whose name begins so")
    chosen = parser.parse_args()
    for port in PORTS:
        if connects(port):
            print(f"compat: port {port} is in use, and the scripts have it fixed; stop what listens there")
            return 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            scripts = Scripts(download(Path(folder)), chosen.python)
        except (Failed, OSError, subprocess.TimeoutExpired) as error:
            print(f"compat: cannot download bjoern {RELEASE} from PyPI, nothing was checked: {error}")
            return 1 if chosen.require else 0
        passed = failed = 0
        for name, drive in CHECKS.items():
            if chosen.scripts and not name.startswith(tuple(chosen.scripts)):
                continue
            try:
                drive(scripts)
            except (Failed, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
            else:
                passed += 1
                print(f"passed  {name}" + (f"  ({DIFFERENT[name]})" if name in DIFFERENT else ""), flush=True)
        print(f"{passed} passed, {failed} failed")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
