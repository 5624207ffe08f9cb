"""Frameworks rely on it that a request has one thread: no user gets another user's data, and every export is whole.

How it works: clients read exports as Alice, slowly and quickly, while others ask as Bob; each row names its user.
Knows: the sites that have users (`sites`), the command.   Must not know: how the server divides requests among threads.
"""

from __future__ import annotations

import contextlib
import select
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from crowd import Crowd
from frameworks.sites import ROW_BYTES, ROWS, row
from server_process import TESTS
from services import Service, until
from wire import Client, Closed, Response, message

PAGES = [
    "bottle/export",
    "cherrypy/export",
    "webpy/export",
    "flask/export",
    "flask/copied_export",
    "falcon/export",
    "django/export",
]
PACKAGES = {"webpy": "web"}
EXPORTS = 10
SMALL = 4096  # bytes of a slow client's receive buffer

Start = Callable[..., Service]


@pytest.fixture(params=[1, 4], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(params=[1, 2], ids="{} processes".format)
def processes(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def serve(threads: int, processes: int) -> Iterator[Start]:
    """`serve("bottle")`: the command serves Bottle's site, in one process or in workers, and writes no message."""
    with contextlib.ExitStack() as stack:
        running: list[Service] = []

        def start(site: str, attribute: str = "app", threads: int = threads) -> Service:
            pytest.importorskip(PACKAGES.get(site, site), reason="`make frameworks` installs it")
            arguments = ["-b", "127.0.0.1:0", "--threads", str(threads), "--graceful-timeout", "10s"]
            if processes > 1:
                arguments += ["-w", str(processes)]
            module = f"frameworks.sites.{site}_site:{attribute}"
            running.append(stack.enter_context(Service(*arguments, module, cwd=TESTS)))
            return running[-1]

        yield start
        for service in running:
            service.stop()
            assert service.lines[1:] == []


def connect(service: Service, receive_buffer: int | None = None) -> Client:
    host, _, port = service.address.removeprefix("http://").rpartition(":")
    return Client((host, int(port)), receive_buffer)


def connect_to(service: Service, process: int, receive_buffer: int | None = None) -> Client:
    """A connection that this process has accepted, of several that share the address."""
    while True:
        client = connect(service, receive_buffer)
        if process_of(client) == process:
            return client
        client.close()


def process_of(client: Client) -> int:
    user, process = client.ask("GET", "/who", "Cookie: user=Who").body.decode().split()
    assert user == "Who"
    return int(process)


@contextlib.contextmanager
def bob(service: Service, processes: int) -> Iterator[Crowd]:
    """Two clients that ask as Bob all the time. With workers there are more, so that each worker has some."""
    request = message("GET", "/who", "Cookie: user=Bob")
    while True:
        with Crowd(service.address, 2 if processes == 1 else 8, request) as crowd:
            crowd.wait_for(100)
            if len(crowd.bodies) >= processes:
                yield crowd
                break
    assert not crowd.lost
    assert {body.split()[0] for body in crowd.bodies} == {"Bob"}


def rows_of(client: Client, response: Response, pause: Callable[[], None]) -> Counter[str]:
    """How many rows an export has of each user; the client makes a `pause` now and then."""
    users: Counter[str] = Counter()
    received = b""
    try:
        while block := client.recv_block(response):
            received += block
            if len(received) % (10 * ROW_BYTES) == 0:
                pause()
    except (Closed, ConnectionResetError):
        users["cut"] = 1
    for number, line in enumerate(received.splitlines(keepends=True)):
        user = line.decode().split()[0]
        users[user if line == row(user, number) else "garbled"] += 1
    return users


# One user's data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_an_export_has_the_rows_of_its_user(serve: Start, processes: int, page: str) -> None:
    """Five clients at a time read exports, slowly and quickly."""
    site, _, path = page.partition("/")
    service = serve(site)
    with bob(service, processes) as others:

        def export(number: int) -> tuple[str, Counter[str]]:
            user, is_slow = f"Alice{number}", number % 2 == 0
            with connect(service, SMALL if is_slow else None) as client:
                client.send(message("GET", f"/{path}", f"Cookie: user={user}"))
                response = client.recv_head()
                assert response.status == 200
                return user, rows_of(client, response, lambda: others.wait_for(1) if is_slow else None)

        with ThreadPoolExecutor(EXPORTS // 2) as clients:
            found = dict(clients.map(export, range(EXPORTS)))
    assert found == {user: Counter({user: ROWS}) for user in found}


@pytest.mark.parametrize("page", [page for page in PAGES if page.partition("/")[0] not in ("cherrypy", "webpy")])
def test_an_export_ends_as_its_user_when_the_client_goes(serve: Start, processes: int, page: str) -> None:
    """The generators look at the request in `finally`. CherryPy has dropped it by then, and web.py closes nothing."""
    site, _, path = page.partition("/")
    service = serve(site)
    names = [f"Alice{number}" for number in range(EXPORTS)]
    with bob(service, processes) as others:
        for user in names:
            with connect(service, SMALL) as client:
                client.send(message("GET", f"/{path}", f"Cookie: user={user}"))
                client.recv_block(client.recv_head())
                others.wait_for(10)
                client.reset()

        def closed() -> list[str]:
            said = {}
            while len(said) < processes:
                with connect(service) as client:
                    said[process_of(client)] = client.ask("GET", "/closed").body.decode().split()
            return sorted(name for names in said.values() for name in names)

        until(lambda: len(closed()) >= EXPORTS)
        assert closed() == names


# A lock that is held over a yield ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_that_is_held_from_row_to_row(serve: Start, kind: str) -> None:
    """Another request waits for the lock while a slow client reads the export; both are answered."""
    service = serve("bottle")
    with connect(service, SMALL) as slow, connect_to(service, process_of(slow)) as other:
        slow.send(message("GET", f"/export_with/{kind}", "Cookie: user=Alice"))
        response = slow.recv_head()
        assert slow.recv_block(response) == row("Alice", 0)
        other.send(message("GET", f"/take/{kind}"))
        assert not select.select([other.sock], [], [], 0.2)[0]  # it waits
        rest = b"".join(iter(lambda: slow.recv_block(response), b""))
        assert rest == b"".join(row("Alice", number) for number in range(1, ROWS))
        assert other.recv_response().body == b"alone"


# Database connections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 8], ids="{} threads".format)
def test_whole_responses_leave_no_database_connection_open(serve: Start, threads: int, processes: int) -> None:
    """Django closes the connection of the thread in which the request ends: it must be the thread that opened it."""
    service = serve("django", "counted", threads=threads)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(service, SMALL))]
        process = process_of(slow[0])
        slow += [stack.enter_context(connect_to(service, process, SMALL)) for _ in range(5)]
        for client in slow:
            client.send(message("GET", "/large?meet" if threads > 1 else "/large", "Cookie: user=Alice"))
        for client, head in [(client, client.recv_head()) for client in slow]:
            assert client.recv_block(head) == b"Alice".ljust(8_000_000, b".")

    def are_open() -> int:
        counts = {}
        while len(counts) < processes:
            with connect(service) as client:
                process, count = map(int, client.ask("GET", "/connections").body.split())
                counts[process] = count
        return sum(counts.values())

    until(lambda: are_open() == 0)
