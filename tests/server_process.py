"""A server in a process of its own, as users run one: started, watched, stopped.

Knows: processes, signals, pipes, `run_app.py`.   Must not know: what the server or its application does.
Invariant: a server still runs when its test ends, and nothing stands on its stderr that the test did not ask for.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from wire import GUARD, Address, Client, Response

TESTS = Path(__file__).parent


class ServerProcess:
    """`app` ("module:attribute" below tests/) served on `host` and a free port, or on `unix:/path`, with `options`.

    Python runs in its development mode: a file that nobody closed, or a misused interpreter, is heard on stderr.
    """

    def __init__(self, python: str, app: str, host: str = "127.0.0.1", **options: Any) -> None:
        self.process = subprocess.Popen(
            [python, "-X", "dev", str(TESTS / "run_app.py"), app, host, json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._text = ""
        self._mark = 0
        self._asked = False
        self.ended = False  # it was waited for: no need to be stopped
        self._news = threading.Condition()
        assert self.process.stderr is not None
        self._stderr = self.process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        threading.Thread(target=self._listen_to_stderr, daemon=True).start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the server did not start: exit {self.process.wait(GUARD)}\n{self.stderr()}")
        port = json.loads(line)
        self.address: Address = host[5:] if host.startswith("unix:") else (host, port)

    def _listen_to_stderr(self) -> None:
        while select.select([self._stderr], [], [])[0] and self._hear():
            pass

    def _hear(self) -> bool:
        """Takes in what stands on stderr by now, so that no test is blamed for another's; false at its end."""
        with self._news:
            with contextlib.suppress(BlockingIOError):
                while data := os.read(self._stderr, 65536):
                    self._text += data.decode(errors="replace")
                    self._news.notify_all()
                return False
            return True

    @property
    def inet(self) -> tuple[str, int]:
        """Host and port, where it is no unix socket."""
        assert isinstance(self.address, tuple)
        return self.address

    def url(self, path: str = "") -> str:
        return f"http://{self.inet[0]}:{self.inet[1]}{path}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self, receive_buffer: int | None = None) -> Client:
        return Client(self.address, receive_buffer)

    def ask(
        self,
        method: str = "GET",
        target: str = "/",
        *lines: str,
        body: bytes | None = None,
        chunks: list[bytes] | None = None,
        version: str = "1.1",
        host: str | None = "test",
    ) -> Response:
        """One request on a connection of its own, which ends with it."""
        with self.connect() as client:
            lines = (*lines, "Connection: close")
            response = client.ask(method, target, *lines, body=body, chunks=chunks, version=version, host=host)
            client.expect_close()
        return response

    def stderr(self) -> str:
        """What was written to stderr since the test began."""
        self._asked = True
        self._hear()
        with self._news:
            return self._text[self._mark :]

    def wait_stderr(self, text: str) -> str:
        """Waits until `text` stands on stderr, its line ended; everything written since the test began."""
        self._asked = True
        with self._news:
            found = self._news.wait_for(lambda: text in self._text[self._mark :] and self._text.endswith("\n"), GUARD)
            assert found, f"{text!r} is not on stderr:\n{self._text[self._mark :]}"
            return self._text[self._mark :]

    def begin(self) -> None:
        """A test begins to use this server."""
        self._hear()
        self._mark, self._asked = len(self._text), False

    def check(self) -> None:
        """A test is done with this server: it runs, and it said nothing unasked."""
        self._hear()
        assert self.process.poll() is None, f"the server died: exit {self.process.returncode}\n{self._text}"
        assert self._asked or len(self._text) == self._mark, f"on stderr:\n{self._text[self._mark :]}"

    def stop(self) -> None:
        """SIGINT, then the drain, `KeyboardInterrupt` out of `run()`, and exit code 0 from `run_app.py`."""
        assert self.process.poll() is None, f"the server died: exit {self.process.returncode}\n{self._text}"
        self.process.send_signal(signal.SIGINT)
        code = self.wait()
        assert code == 0, f"exit {code} after SIGINT\n{self._text}"

    def wait(self) -> int:
        """The exit code of a server that ends by itself."""
        self.ended = True
        return self.process.wait(GUARD)

    def discard(self) -> None:
        """Ends the process where it still runs, so that a failed test leaves nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(GUARD)
