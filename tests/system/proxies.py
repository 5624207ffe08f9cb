"""nginx and HAProxy as processes: with a configuration from docs/running.md, on a free port, in front of a server.

Knows: their command lines, and what in the documentation's examples is a place for addresses.
Must not know: pytest, what is asked through them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from wire import GUARD, Address, Client

PAGE = Path(__file__).parents[2] / "docs" / "running.md"


def found(program: str) -> str | None:
    """Where a program is; Debian has these where only root looks."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def examples(language: str) -> list[str]:
    """The documentation's examples in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """`text` with each pair's first part as its second; each must be there once."""
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in:\n{text}"
        text = text.replace(old, new)
    return text


def named(address: Address) -> str:
    """An address as both programs write it."""
    return f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Proxy:
    """A proxy at 127.0.0.1, from when it accepts connections until it is stopped."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)

    address: tuple[str, int]

    def wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(self.address, GUARD):
                return
            time.sleep(0.01)
        raise AssertionError(f"the proxy does not listen:\n{self.log.read_text(errors='replace')}")

    def connect(self, source: str = "127.0.0.1") -> Client:
        """A client, which the proxy sees at `source` (any of 127.0.0.0/8)."""
        return Client(self.address, source=source)

    def url(self, path: str = "/") -> str:
        return f"http://{self.address[0]}:{self.address[1]}{path}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(GUARD)


class Nginx(Proxy):
    """nginx with the documentation's example in front of `server`; `extra` lines go into its location."""

    def __init__(self, folder: Path, server: Address, *extra: str) -> None:
        self.address = ("127.0.0.1", free_port())
        (example,) = examples("nginx")
        site = replaced(
            example,
            ("server unix:/run/bjoern.sock;", f"server {named(server)};"),
            ("listen 80;", f"listen 127.0.0.1:{self.address[1]};"),
            ("proxy_pass http://bjoern;", "\n".join(["proxy_pass http://bjoern;", *extra])),
        )
        places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"{place}_temp_path {folder}/{place};" for place in places)
        user = "user root;" if os.geteuid() == 0 else ""  # the socket may lie where only we may look
        config = f"""
            daemon off; {user} worker_processes 1; pid {folder}/pid; error_log stderr warn;
            events {{ worker_connections 1024; }}
            http {{ access_log off; {temporary}
            {site} }}
        """
        path = folder / "nginx.conf"
        path.write_text(config)
        super().__init__(folder, found("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(path))
        self.wait()


class HAProxy(Proxy):
    """HAProxy with the documentation's example number `index` in front of `server`, some pairs of it replaced."""

    def __init__(self, folder: Path, server: Address, index: int, *pairs: tuple[str, str]) -> None:
        self.address = ("127.0.0.1", free_port())
        site = replaced(
            examples("haproxy")[index],
            ("bind :80", f"bind 127.0.0.1:{self.address[1]}"),
            ("server one 127.0.0.1:8000", f"server one {named(server).replace('unix:', 'unix@')}"),
            *pairs,
        )
        path = folder / "haproxy.cfg"
        path.write_text(f"global\n    maxconn 1000\n    log stderr local0 notice\n\n{site}")
        super().__init__(folder, found("haproxy") or "haproxy", "-db", "-f", str(path))
        self.wait()
