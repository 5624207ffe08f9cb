"""All of it at once, for some seconds: every answer is right, nothing is left, and the end may come in its middle.

How it works: clients in several threads ask a server with eight in a process of its own; each client knows what it must
get. The seed of what they ask is shown where one fails.
Knows: what each path of `apps.mixed` answers.   Must not know: anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Serve
from programs import Program
from server_process import ServerProcess
from services import Service
from wire import GUARD, Address, Client, Closed, message

MIXED = "apps.mixed:app"
SECONDS = float(os.environ.get("STRESS_SECONDS", "8"))
CLIENTS = 12
RELOADS = int(os.environ.get("STRESS_RELOADS", "5"))
SEED = int(os.environ.get("SEED", str(random.randrange(1 << 32))))


def block(number: int, size: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (size // 32)


def path(kind: str, number: int, size: int = 0) -> str:
    return f"/{kind}?id={number}&size={size}"


Action = Callable[[Client, random.Random, int], bool]  # whether the connection can be used again


def simple(kind: str) -> Action:
    def ask(client: Client, chance: random.Random, number: int) -> bool:
        size = chance.choice([32, 3200, 64_000])
        response = client.ask("GET", path(kind, number, size))
        assert (response.status, response.get("X-Id")) == (200, str(number))
        assert response.body == block(number, size)
        return not response.closes

    return ask


def upload(client: Client, chance: random.Random, number: int) -> bool:
    body = block(number, chance.choice([0, 3200, 64_000, 640_000]))
    if chance.random() < 0.5:
        response = client.ask("POST", path("upload", number), body=body)
    else:
        half = len(body) // 2
        response = client.ask(
            "POST", path("upload", number), chunks=[part for part in (body[:half], body[half:]) if part]
        )
    assert (response.status, response.get("X-Id")) == (200, str(number))
    assert response.body.decode() == hashlib.sha256(body).hexdigest()
    return not response.closes


def pipelined(client: Client, chance: random.Random, number: int) -> bool:
    kinds = [chance.choice(["fast", "sleep", "stream", "work"]) for _ in range(8)]
    client.send(b"".join(message("GET", path(kind, number + at, 320)) for at, kind in enumerate(kinds)))
    for at in range(len(kinds)):
        response = client.recv_response()
        assert (response.status, response.get("X-Id")) == (200, str(number + at))
        assert response.body == block(number + at, 320)
        if response.closes:  # as by who is to end; the rest is for another to answer
            return False
    return True


def leaves(client: Client, chance: random.Random, number: int) -> bool:
    kind = chance.choice(["fast", "sleep", "work", "stream", "write", "file"])
    sent = message("GET", path(kind, number, 640_000))
    client.send(sent[: chance.randrange(1, len(sent) + 1)] if chance.random() < 0.3 else sent)
    if chance.random() < 0.5:
        client.sock.settimeout(0.002)
        with contextlib.suppress(OSError):
            client.sock.recv(1000)
    chance.choice([client.close, client.reset])()
    return False


def half_closes(client: Client, chance: random.Random, number: int) -> bool:
    client.send(message("GET", path("fast", number, 3200)))
    client.half_close()
    # Who half-closes may be taken for gone; else the answer is right.
    with contextlib.suppress(Closed, ConnectionResetError):
        assert client.recv_response().body == block(number, 3200)
    return False


def old(client: Client, chance: random.Random, number: int) -> bool:
    response = client.ask("GET", path(chance.choice(["fast", "stream", "write"]), number, 64_000), version="1.0")
    assert (response.get("X-Id"), response.body) == (str(number), block(number, 64_000))
    client.expect_close()
    return False


ACTIONS = [simple(kind) for kind in ("fast", "fast", "sleep", "work", "stream", "write", "file")]
ACTIONS += [upload, pipelined, leaves, half_closes, old]


class Crowd:
    """Clients that ask until they are told to stop; with `may_end`, until the server does not answer any more."""

    def __init__(self, address: Address, may_end: bool = False) -> None:
        self.address, self.may_end = address, may_end
        self.over = threading.Event()
        self.failures: list[str] = []
        self.answered = 0
        self.news = threading.Condition()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, name: int) -> None:
        chance = random.Random(SEED + name)
        client: Client | None = None
        number = name * 1_000_000
        try:
            while not self.over.is_set() and not self.failures:
                client = client or Client(self.address)
                number += 10
                action = chance.choice(ACTIONS)
                if not action(client, chance, number):
                    client.close()
                    client = None
                with self.news:
                    self.answered += 1
                    self.news.notify_all()
        except (OSError, Closed) as error:
            # Requests may come too late; an answer that has begun is whole.
            is_cut = any(frame.name == "recv_block" for frame in traceback.extract_tb(error.__traceback__))
            if not self.may_end or is_cut:
                self.failures.append(f"client {name}, request {number}: {error!r}")
        except BaseException as error:
            self.failures.append(f"client {name}, request {number}: {error!r}"[:2000])
        finally:
            if client:
                client.close()
            with self.news:
                self.news.notify_all()

    def wait_for(self, more: int) -> None:
        """Until so many more have got what they asked for, or one has not."""
        with self.news:
            wanted = self.answered + more
            assert self.news.wait_for(lambda: self.answered >= wanted or self.failures, GUARD)

    def join(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, f"SEED={SEED}\n" + "\n".join(self.failures)
        assert self.answered > CLIENTS


def open_connections(server: ServerProcess) -> int:
    with server.connect() as client:
        return int(client.ask("GET", "/opened").body)


@pytest.mark.parametrize("options", [{}, {"slow_request": 60, "timeout": 60}, {"max_queue": 1000}], ids=str)
def test_everything_at_once(serve: Serve, options: dict[str, int]) -> None:
    server = serve(MIXED, threads=8, body_buffer=100_000, **options)
    crowd = Crowd(server.address)
    crowd.over.wait(SECONDS / 3)
    crowd.join()
    end = time.monotonic() + 30
    while open_connections(server) > 1:  # the one that asks
        assert time.monotonic() < end, "connections are left over"


def test_reloads_in_the_middle_of_it() -> None:
    """Who asks an old worker is answered whole, and told where it was the last answer; nobody is left behind."""
    arguments = ["-w", "2", "--threads", "4", "--body-buffer", "100000", "-b", "127.0.0.1:0", MIXED]
    with Service(*arguments, cwd=Path(__file__).parent) as service:
        host, _, port = service.address.removeprefix("http://").rpartition(":")
        crowd = Crowd((host, int(port)))
        try:
            for _ in range(RELOADS):
                crowd.wait_for(10 * CLIENTS)
                service.send(signal.SIGHUP)
                service.wait("reloaded: 2 workers serve")
        finally:
            crowd.join()
        service.send(signal.SIGUSR1)
        service.wait("2 of 2 workers serve")
        service.stop()
        assert not [line for line in service.lines if re.search("error|warning|Traceback", line)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("threads", [1, 8])
def test_the_end_in_the_middle_of_it(threads: int, number: signal.Signals) -> None:
    """Who is being answered is answered whole; and the process ends in time, and as it should."""
    source = f"""
sys.path.insert(0, {os.path.dirname(__file__)!r})
from apps.mixed import app
server = bjoern.Server(app, "127.0.0.1:0", threads={threads}, graceful_timeout=20)
say(server.addresses[0].port)
try:
    server.run()
except KeyboardInterrupt:
    sys.exit(10)
finally:
    say(*(thread.name for thread in threading.enumerate()))
"""
    with Program.of(source) as program:
        crowd = Crowd(("127.0.0.1", int(program.hear())), may_end=True)
        crowd.over.wait(0.5)
        program.send(number)
        end = program.end()
        crowd.join()
    assert end.code == (-number if number == signal.SIGTERM else 10)
    assert end.errors == ""
    assert end.output == ("" if number == signal.SIGTERM else "MainThread\n")
