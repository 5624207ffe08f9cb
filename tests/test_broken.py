"""Broken applications: an answer or a close, a traceback, and the next request is served.

Knows: `apps.broken`.   Must not know: broken clients' bytes (`test_http.py`), slow ones (`test_limits.py`).
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from conftest import Observer, Serve
from wire import Closed, message

BROKEN, OBSERVED = "apps.broken:app", "apps.observed:app"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/returned?what=none", "TypeError: 'NoneType' object is not iterable"),
        ("/returned?what=int", "TypeError: 'int' object is not iterable"),
        ("/returned?what=object", "TypeError: 'object' object is not iterable"),
        ("/returned?what=str", "TypeError: wsgi iterable items must be bytes (got 'str' object instead)"),
        ("/returned?what=list_of_str", "TypeError: wsgi iterable items must be bytes (got 'str' object instead)"),
        ("/returned?what=list_of_int", "TypeError: wsgi iterable items must be bytes (got 'int' object instead)"),
        ("/returned?what=list_of_none", "TypeError: wsgi iterable items must be bytes (got 'NoneType' object instead)"),
        ("/returned?what=bytearray", "TypeError: wsgi iterable items must be bytes (got "),
        ("/returned?what=list_of_bytearray", "wsgi iterable items must be bytes (got 'bytearray' object instead)"),
        ("/returned?what=list_with_str", "wsgi iterable items must be bytes (got 'str' object instead)"),
        ("/before", "ValueError: on purpose"),
        ("/before?error=Exception", "Exception: on purpose"),
        ("/before?error=BaseException", "BaseException: on purpose"),
        ("/before?error=RecursionError", "RecursionError: on purpose"),
        ("/before?error=MemoryError", "MemoryError: on purpose"),
        ("/before?error=StopIteration", "StopIteration: on purpose"),
        ("/before?error=GeneratorExit", "GeneratorExit: on purpose"),
        ("/after", "ValueError: on purpose"),
        ("/in_first_block", "ValueError: on purpose"),
        ("/in_first_block?error=StopIteration", "RuntimeError: generator raised StopIteration"),
        ("/in_iter", "ValueError: on purpose"),
        ("/in_iter?error=StopIteration", "StopIteration: on purpose"),
        ("/silent", "RuntimeError: wsgi application returned before start_response was called"),
        ("/silent_empty", "RuntimeError: wsgi application returned before start_response was called"),
        ("/silent_generator", "start_response was called"),
        ("/wrong_write", "TypeError: "),
        ("/unprintable", "Unprintable"),
    ],
)
def test_an_application_that_fails_before_its_first_byte(shared: Serve, target: str, said: str) -> None:
    server = shared(BROKEN)
    with server.connect() as client:
        client.send(message("GET", target))
        client.expect_refusal(500)
    server.wait_stderr(said)
    assert server.ask("GET", "/well").body == b"well"


@pytest.mark.parametrize(
    ("target", "sent", "said"),
    [
        ("/in_second_block", b"first", "ValueError: on purpose"),
        ("/in_second_block?error=BaseException", b"first", "BaseException: on purpose"),
        ("/late_str", b"x", "TypeError: wsgi iterable items must be bytes (got 'str' object instead)"),
    ],
)
def test_an_application_that_fails_in_its_body(shared: Serve, target: str, sent: bytes, said: str) -> None:
    """The connection ends without the last chunk: nobody may take the body for complete."""
    server = shared(BROKEN)
    with server.connect() as client:
        client.send(message("GET", target))
        response = client.recv_head()
        assert client.recv_block(response) == sent
        with pytest.raises(Closed):
            client.recv_block(response)
    server.wait_stderr(said)
    assert server.ask("GET", "/well").body == b"well"


def test_requests_behind_a_failing_one_are_not_answered(shared: Serve) -> None:
    server = shared(BROKEN)
    with server.connect() as client:
        client.send(message("GET", "/well") + message("GET", "/before") + message("GET", "/well"))
        assert [client.recv_response().status for _ in range(2)] == [200, 500]
        client.expect_close()
    server.wait_stderr("ValueError: on purpose")


@pytest.mark.parametrize(("query", "code"), [("code=0", 0), ("code=7", 7), ("code=text", 1), ("code=7&late=1", 7)])
def test_system_exit_ends_the_server_with_its_code(serve: Serve, query: str, code: int) -> None:
    server = serve("apps.broken:app")
    with server.connect() as idle, server.connect() as client:
        assert idle.ask("GET", "/well").status == 200
        client.send(message("GET", f"/leave?{query}"))
        wire = client.recv_until_close()
        assert wire.startswith(b"HTTP/1.1 200 " if "late" in query else b"HTTP/1.1 500 ")
        assert not wire.endswith(b"\r\n0\r\n\r\n")
        idle.expect_close()
    assert server.wait() == code


def test_system_exit_waits_for_the_answers_that_are_on_their_way(serve: Serve) -> None:
    server = serve("apps.observed:app")
    with server.connect(receive_buffer=4096) as slow, server.connect() as client:
        slow.send(message("GET", "/iterate?blocks=100&size=100000"))
        response = slow.recv_head()
        client.send(message("GET", "/iterate?fail=0&error=SystemExit&argument=6"))
        client.recv_until_close()
        slow.recv_block(response)
        assert sum(len(block) for block in iter(lambda: slow.recv_block(response), b"")) == 99 * 100_000
        slow.expect_close()
    assert server.wait() == 1  # SystemExit("6"): text, not a code


@pytest.mark.parametrize(("error", "code"), [("SystemExit", 1), ("KeyboardInterrupt", 0)])
def test_close_may_end_the_server_too(serve: Serve, error: str, code: int) -> None:
    server = serve("apps.observed:app")
    with server.connect() as idle:
        assert idle.ask("GET", "/history").status == 200
        assert server.ask("GET", f"/iterate?fail_close={error}").body == b"x" * 30
        idle.expect_close()
    assert server.wait() == code


def test_keyboard_interrupt_ends_the_server(serve: Serve) -> None:
    server = serve("apps.broken:app")
    with server.connect() as client:
        client.send(message("GET", "/interrupted"))
        assert client.recv_response().status == 500
        client.expect_close()
    assert server.wait() == 0  # KeyboardInterrupt left run()


def test_a_closed_stderr_does_not_end_the_server(serve: Serve) -> None:
    server = serve("apps.broken:app")
    for target in ("/bad_errors", "/before", "/silent", "/returned?what=none"):
        assert server.ask("GET", target).status == 500
    assert server.ask("GET", "/well").body == b"well"
    server.stderr()


def test_the_answer_of_a_client_that_went_is_dropped(shared: Serve, observer: Observer) -> None:
    """It is gone before the application answers; other connections do not notice."""
    server = shared(OBSERVED)
    client = server.connect()
    client.send(message("GET", "/hold", observer.line))
    assert observer.next() == "call"
    client.reset()
    observer.go()
    assert server.ask("GET", "/history").json() == ["call"]


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_clients_that_come_and_go(shared: Serve, ending: str) -> None:
    server = shared(BROKEN)
    for _ in range(100):
        client = server.connect()
        getattr(client, ending)()
    for _ in range(30):
        client = server.connect()
        client.send(message("GET", "/well") * 3)
        getattr(client, ending)()
    assert server.ask("GET", "/well").body == b"well"


@pytest.mark.parametrize("kind", ["one", "generator", "wrapped_file", "write"])
def test_clients_that_leave_inside_a_response(shared: Serve, kind: str) -> None:
    server = shared("apps.blocks:app")
    for length in ("", "1"):
        for received in (0, 1, 50, 500, 5_000, 50_000, 499_999):
            for leave in ("close", "reset", "half_close"):
                client = server.connect(receive_buffer=4096)
                client.send(message("GET", f"/{kind}?size=500000&length={length}") + message())
                client.recv_exactly(received)
                getattr(client, leave)()
                client.close()
    assert server.ask("GET", "/one").status == 200


def test_never_reading_clients_do_not_hold_others_up(serve: Serve) -> None:
    server = serve("apps.observed:app")
    clients = [server.connect(receive_buffer=4096) for _ in range(20)]
    for client in clients:
        client.send(message("GET", "/iterate?blocks=1000000&size=65536"))
    for client in clients:
        client.recv_head()
    assert server.ask("GET", "/history").status == 200
    for client in clients:
        client.reset()
    assert server.ask("GET", "/history").status == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_nothing_stays_open(serve: Serve) -> None:
    """Sockets of clients that went, files they were being sent, files their bodies were put in."""
    server = serve("apps.blocks:app", body_buffer=1000)
    descriptors = Path(f"/proc/{server.pid}/fd")

    def come_and(leave: str) -> None:
        leaving = [server.connect(receive_buffer=4096) for _ in range(5)]
        leaving[0].send(message("GET", "/wrapped_file?size=5000000&length=1"))
        leaving[1].send(message("GET", "/file?size=5000000"))
        leaving[2].send(message("POST", "/one", "Content-Length: 100000") + b"x" * 50_000)
        leaving[3].send(message("POST", "/one", body=b"x" * 50_000))
        leaving[0].recv_head()
        leaving[1].recv_head()
        for client in leaving:
            getattr(client, leave)()
        for _ in range(10):
            other.ask("GET", "/one")

    with server.connect() as other:
        for leave in ("close", "reset") * 4:  # what the server opens once, when it is needed first, is there by now
            come_and(leave)
        before = len(list(descriptors.iterdir()))
        for leave in ("close", "reset") * 10:
            come_and(leave)
        assert len(list(descriptors.iterdir())) <= before


def test_a_stopped_client_does_not_hold_the_drain_up_for_ever(serve: Serve) -> None:
    server = serve("apps.observed:app", graceful_timeout=0.2)
    with server.connect(receive_buffer=4096) as client:
        client.send(message("GET", "/iterate?blocks=1000000&size=65536"))
        client.recv_head()
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
