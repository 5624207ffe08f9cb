"""Nothing is kept: every way through the server many times, and the process holds what it held before.

The process is measured, a way is walked WALKS times, the process is measured again: references, living objects and
descriptors must be the same, and what has noise of its own must have grown by less than one of a kind a request.
What is made once and kept grows once; a leak grows every time. So a way has ATTEMPTS to show that it does not.
Knows: `apps.leaks`.   Must not know: how answers are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from conftest import Serve
from server_process import ServerProcess
from services import until
from wire import chunked, message

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="descriptors and pages are in /proc")

LEAKS = "apps.leaks:app"
BODY_BUFFER = 1000  # bytes: bodies of more are spilled
WALKS = 100
ATTEMPTS = 30  # a CPython without GIL fills its caches for a thousand requests
SETTLING = 30  # turns a server gets to notice that its clients went

Counts = dict[str, int]


class Way(NamedTuple):
    """A request, or less or more than one, and how the client goes on.

    `answered`: it reads that many responses and sends the next request on the same connection. `ended`: it reads until
    the server closes. `left`: it reads one byte, and closes (or resets) in the middle of the response; `dropped`: it
    closes without reading.
    """

    name: str
    wire: bytes
    end: Literal["answered", "ended", "left", "dropped"] = "answered"
    methods: tuple[str, ...] = ("GET",)


def gets(*targets: str, end: Literal["answered", "ended", "left"] = "answered") -> Iterator[Way]:
    for target in targets:
        lines = [] if end != "ended" else ["Connection: close"]
        yield Way(f"{target} {end}", message("GET", f"/{target}", *lines), end)


def posts(*targets: str) -> Iterator[Way]:
    for size in (10, 5000):
        for target in targets:
            yield Way(f"{target} {size}", message("POST", f"/{target}", body=b"line\n" * (size // 5)))
            yield Way(f"{target} {size} chunked", message("POST", f"/{target}", chunks=[b"line\n"] * (size // 5)))


ANSWERED = ["listed", "listed?blocks=3", "single", "large", "generated", "iterated", "empty", "empty?status=304"]
ANSWERED += ["wrapped", "wrapped_bytes", "unused_wrapper", "written", "replaced", "replaced?second=1", "nowhere"]
BROKEN = ["failing", "failing?started=1", "silent", "called_twice", "too_late", "written?fail=1", "iterated?fail=0"]
BROKEN += ["iterated?fail=2", "iterated?fail_close=1", "lengths?promised=20", "lengths?promised=20&iterator=1"]
BROKEN += ["lengths?promised=5", "lengths?promised=5&iterator=1&blocks=3", "lengths?promised=25&blocks=3"]
BROKEN += [f"returned?what={what}" for what in ("none", "text", "list_of_text", "late_text")]
BROKEN += [f"called_wrong?how={how}" for how in ("nothing", "status", "headers", "field", "value", "exc_info")]
ABANDONED = ["large?blocks=500", "wrapped?huge=1", "generated?blocks=1000000", "generated?blocks=1000&large=1"]
ABANDONED += ["written?blocks=100000"]

REFUSED = {
    "bad request line": b"GET\r\n\r\n",
    "bad version": b"GET / HTTP/3.0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "bad escape": message("GET", "/%zz"),
    "bad field": message("GET", "/", "A b: c"),
    "large head": message("GET", "/", "A: " + "b" * 70_000),
    "long target": message("GET", "/" + "a" * 70_000),
    "many fields": message("GET", "/", *["A: b"] * 200),
    "two lengths": message("POST", "/", "Content-Length: 1", "Content-Length: 2"),
    "length and chunks": message("POST", "/", "Content-Length: 1", chunks=[b"a"]),
    "large body": message("POST", "/", "Content-Length: 99999999999999"),
    "bad chunk": message("POST", "/", "Transfer-Encoding: chunked") + chunked(b"x" * 3000)[:-5] + b"zz\r\n",
    "expectation": message("POST", "/", "Expect: something", body=b"x"),
}

DROPPED = {
    "nothing": b"",
    "half a head": b"GET /listed HTTP/1.1\r\nHost: te",
    "half a body": message("POST", "/reading", "Content-Length: 500") + b"x" * 100,
    "half a spilled body": message("POST", "/reading", "Content-Length: 5000") + b"x" * 4000,
    "half a chunk": message("POST", "/reading", "Transfer-Encoding: chunked") + b"fff\r\n" + b"x" * 3000,
    "a request": message("GET", "/generated?blocks=10"),
    "a hundred requests": message("GET", "/generated?blocks=10") * 100,
}

LISTED = message("GET", "/listed", "Cookie: a=b; c=d", "X-One: 1", "X-One: 2")

WAYS = [
    *gets(*ANSWERED),
    *gets(*ANSWERED, end="ended"),
    *gets(*BROKEN, end="ended"),
    *gets(*ABANDONED, end="left"),
    *posts(*[f"reading?how={how}" for how in ("no", "read", "lines", "part", "closed")]),
    *[Way(f"HEAD {target}", message("HEAD", f"/{target}"), methods=("HEAD",)) for target in ANSWERED],
    *[Way(f"HTTP/1.0 {target}", message("GET", f"/{target}", version="1.0"), "ended") for target in ANSWERED],
    *[Way(f"refused: {name}", wire, "ended") for name, wire in REFUSED.items()],
    *[Way(f"dropped: {name}", wire, "dropped") for name, wire in DROPPED.items()],
    Way("fields", LISTED),
    Way("pipelined", LISTED * 16, methods=("GET",) * 16),
    Way("invited", message("POST", "/reading?how=read", "Expect: 100-continue", body=b"x" * 5000)),
    Way("pipelined, then refused", LISTED * 3 + b"GET\r\n\r\n", "ended"),
    Way("pipelined, then failed", LISTED * 3 + message("GET", "/failing"), "ended"),
]


def walk(server: ServerProcess, way: Way, times: int) -> None:
    if way.end == "answered":
        with server.connect() as client:
            for _ in range(times):
                client.send(way.wire)
                for method in way.methods:
                    assert client.recv_response(method).status != 500
        return
    for number in range(times):
        with server.connect(receive_buffer=4096 if way.end == "left" else None) as client:
            client.send(way.wire)
            if way.end == "ended":
                client.recv_until_end()
            elif way.end == "left":
                client.recv_exactly(1)
            if number % 2 and way.end != "ended":
                client.reset()


def measure(server: ServerProcess, before: Counts | None = None) -> Counts:
    """What the process holds, once it has noticed that the clients went."""
    with server.connect() as client:
        for _ in range(SETTLING):
            counts: Counts = client.ask("GET", "/measured").json()
            if before is None or all(counts[name] <= before[name] for name in ("descriptors", "alive")):
                break
        return counts


# How much each measure may grow: nothing, or a part of what WALKS requests would leave if each left the least.
NOISY = {"objects": WALKS // 10, "blocks": WALKS // 10, "heap": 8 * WALKS}
IGNORED = ("resident", "traced", "unreachable")


def grown(before: Counts, after: Counts) -> dict[str, int]:
    growth = {name: after[name] - before.get(name, 0) for name in after if name not in IGNORED}
    return {name: more for name, more in growth.items() if more > NOISY.get(name, 0)}


def kept(server: ServerProcess, way: Way) -> dict[str, int]:
    """What WALKS walks of a way add each time, by measure; the first ones may fill caches."""
    before, growth = measure(server), {"not measured": 1}
    for _ in range(ATTEMPTS):
        walk(server, way, WALKS)
        after = measure(server, before)
        growth, before = grown(before, after), after
        if not growth:
            break
    return growth


@pytest.fixture(scope="module")
def server(server_python: str) -> Iterator[ServerProcess]:
    process = ServerProcess(server_python, LEAKS, body_buffer=BODY_BUFFER)
    try:
        yield process
        process.stop()
    finally:
        process.discard()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_leaves_nothing_behind(server: ServerProcess, way: Way) -> None:
    assert kept(server, way) == {}
    until(lambda: measure(server)["alive"] == 0)  # a stream that its client has left ends in its own thread
    server.stderr()  # where applications' errors are shown


@pytest.mark.parametrize(
    ("what", "noticed"),
    [
        ("environ", "alive"),
        ("start_response", "references to type of start_response"),
        ("wrapper", "references to type of wrapper"),
        ("block", "references to block"),
        ("object", "objects"),
        ("bytes", "blocks"),
        ("descriptor", "descriptors"),
        ("garbage", "garbage"),
        ("heap", "heap"),
    ],
)
def test_the_measures_notice(serve: Serve, what: str, noticed: str) -> None:
    """The check of the check: a leak of one of a kind a request."""
    server = serve(LEAKS)
    if noticed == "heap" and not measure(server)["heap"]:
        pytest.skip("the C library has no mallinfo2")
    assert noticed in kept(server, Way(what, message("GET", f"/leak?what={what}")))
    server.stderr()


ROUNDS = 4
LONGEST = 16  # rounds: how long caches may take to fill. CPython's take up to eight, where there is no GIL
PAGES = 2 << 20  # bytes that the resident memory may grow by in so many rounds: it is never quite still
TRACED = 20_000  # bytes that Python's own allocations may


def rounds(server: ServerProcess, ways: list[Way]) -> dict[str, int]:
    """Growth of resident and traced memory (bytes) in the last ROUNDS rounds of all ways, once it is still."""
    counts: list[Counts] = []
    growth: dict[str, int] = {}
    server.ask("GET", "/traced")
    while len(counts) < LONGEST:
        for way in ways:
            walk(server, way, 10)
        counts.append(measure(server, counts[0] if counts else None))
        if len(counts) > 1 + ROUNDS:
            growth = {name: counts[-1][name] - counts[-1 - ROUNDS][name] for name in ("resident", "traced")}
            if growth["traced"] < TRACED and growth["resident"] < PAGES:
                break
    return growth


def test_all_ways_in_turn(serve: Serve) -> None:
    server = serve(LEAKS, body_buffer=BODY_BUFFER)
    growth = rounds(server, WAYS)
    assert growth["traced"] < TRACED
    assert growth["resident"] < PAGES
    server.stderr()


def test_the_rounds_notice(serve: Serve) -> None:
    """As many bytes a request as a body or a block has."""
    server = serve(LEAKS)
    growth = rounds(server, [Way("leak", message("GET", "/leak?what=pages"))])
    assert growth["traced"] > TRACED
    assert growth["resident"] > PAGES
