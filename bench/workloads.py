"""What is asked of the servers, as data: requests, connections, expected answers, targets.

Knows: the bytes of each request, which application answers them.
Must not know: servers' commands, how anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peers import BJOERN, BJOERN_3, BJOERN_THREADS, CREWS, GUNICORN, ONE_LOOP, ONE_THREAD, TWO_LOOPS, with_threads

import apps

# CPU time a request, all of it or in user space; answers a second; the 99th percentile of the wait. The rate's share
# of, and the wait's excess over, what the same process did before the slow clients came; the answers a second to them.
Measure = Literal["total", "user", "rate", "wait", "share", "excess", "slow"]
BEST = "best peer"
BEST_WHOLE = "best peer that collects bodies"  # the application is called with a whole body, not while it still arrives
ITSELF = "itself without the idle connections"
NOBODY = "-"


@dataclass(frozen=True)
class Target:
    """At most (`least`: at least) `limit` times what `against` has, a peer's name, BEST or ITSELF.

    Against NOBODY it is a number, in the unit of the measure.
    """

    measure: Measure
    limit: float
    against: str = NOBODY
    least: bool = False


@dataclass(frozen=True)
class Slow:
    """Clients beside the load, each of which asks for the page at `target` again as soon as it is answered."""

    target: str
    clients: int


@dataclass(frozen=True)
class Workload:
    """Requests that are sent in turn over `connections`; each is answered by `answers` responses with `body`."""

    name: str
    title: str
    application: tuple[str, str]  # module, name
    requests: tuple[bytes, ...]
    body: bytes
    targets: tuple[Target, ...]
    answers: int = 1
    connections: int = 64
    idle: int = 0  # connections beside, which have made one request
    slow: Slow | None = None
    seconds: float = 0.7  # of one measurement; more where the user's share counts, which the kernel only samples
    probes: int = 20  # requests whose answers are checked before anything is measured
    closes: bool = False  # every answer is the last of its connection
    only: tuple[str, ...] = ()  # peers that can do it at all; empty: all of `PEERS` are asked
    subject: str = BJOERN  # the peer whose targets these are
    times: int = 1  # as many rounds as the others have; more where a few percent decide
    shown: tuple[Measure, ...] = ("total",)  # in the table of threads, a row each
    cores: int = 1  # the server's; more than one: the client shares one of them where the machine has no other


def _get(*lines: str, target: str = "/") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


def _post(body: bytes) -> bytes:
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def _browser(number: int) -> bytes:
    """What a browser sends, sixteen fields with Host; cookie and query differ from request to request."""
    # Knuth's multiplicative hash: looks random, is the same in every run.
    token = number * 2654435761 % (1 << 32)
    return _get(
        "Connection: keep-alive",
        "Cache-Control: max-age=0",
        'sec-ch-ua: "Chromium";v="142", "Not A(Brand";v="24"',
        "sec-ch-ua-mobile: ?0",
        'sec-ch-ua-platform: "Linux"',
        "Upgrade-Insecure-Requests: 1",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-User: ?1",
        "Sec-Fetch-Dest: document",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
        f"Cookie: session={token:08x}{number:08x}; theme=dark; seen={number}",
        target=f"/articles/search?query=word{number}&page={number % 17}&token={token:x}",
    )


HELLO = ("apps", "hello")
BUSY = ("apps", "busy")
BROWSERS = tuple(_browser(number) for number in range(1, 1001))

WORKLOADS = (
    Workload(
        "hello",
        "hello, keep-alive",
        HELLO,
        (_get(),),
        apps.HELLO,
        (Target("total", 0.82, BJOERN_3), Target("user", 0.60, BEST)),
        seconds=1.2,
    ),
    Workload(
        "browser",
        "a browser's sixteen fields",
        HELLO,
        BROWSERS,
        apps.HELLO,
        (Target("total", 0.86, BEST), Target("user", 0.60, BEST)),
        seconds=1.2,
    ),
    Workload(
        "post",
        "POST of 1 KB",
        ("apps", "count"),
        (_post(b"x" * 1024),),
        b"1024",
        (Target("total", 0.86, BEST), Target("user", 0.65, BEST)),
        seconds=1.2,
    ),
    Workload(
        "pipelined",
        "16 requests pipelined",
        HELLO,
        (_get() * 16,),
        apps.HELLO,
        (Target("total", 0.25, BEST), Target("user", 0.20, BEST)),
        answers=16,
        seconds=1.2,
    ),
    Workload(
        "close",
        "one connection a request",
        HELLO,
        (_get("Connection: close"),),
        apps.HELLO,
        (Target("total", 0.95, BJOERN_3), Target("user", 0.60, BJOERN_3)),
        closes=True,
        seconds=1.0,
    ),
    Workload(
        "stream",
        "a stream of 100 blocks of 1 KB",
        ("apps", "stream"),
        (_get(),),
        apps.BLOCK * apps.BLOCKS,
        (Target("total", 0.60, BEST),),
    ),
    Workload(
        "memory",
        "10 MB from memory",
        ("apps", "large"),
        (_get(),),
        apps.LARGE,
        (Target("total", 1.0, BEST),),
        connections=8,
        probes=2,
    ),
    Workload(
        "file",
        "10 MB through file_wrapper",
        ("apps", "file"),
        (_get(),),
        apps.LARGE,
        (Target("total", 1.0, BEST),),
        connections=8,
        probes=2,
    ),
    Workload(
        "upload",
        "an upload of 10 MB",
        ("apps", "count"),
        (_post(b"x" * 10_000_000),),
        b"10000000",
        (Target("total", 0.8, BEST_WHOLE),),
        connections=8,
        probes=2,
    ),
    Workload(
        "flask",
        "a Flask page",
        ("flask_page", "app"),
        (_get(),),
        apps.HELLO,
        (Target("total", 1.0, BEST), Target("total", 0.35, GUNICORN)),
    ),
    Workload(
        "django",
        "a Django page",
        ("django_page", "app"),
        (_get(),),
        apps.HELLO,
        (Target("total", 1.0, BEST), Target("total", 0.35, GUNICORN)),
    ),
    Workload(
        "idle",
        "10,000 idle connections beside 64 active",
        HELLO,
        (_get(),),
        apps.HELLO,
        (Target("total", 1.1, ITSELF),),
        idle=10_000,
        seconds=1.0,
        only=(BJOERN, BJOERN_3, "fastpysgi", "granian, 1 thread"),
    ),
)

CREW = tuple(peer.name for peer in CREWS)
SIXTEEN = tuple(name for name in CREW if name != ONE_THREAD)

# The same for servers with threads: docs/concurrency.md.
THREADED = (
    Workload(
        "hello-threads",
        "hello, keep-alive",
        HELLO,
        (_get(),),
        apps.HELLO,
        (Target("total", 1.03, ONE_THREAD),),
        seconds=1.2,
        times=2,
        only=CREW,
        subject=BJOERN_THREADS,
    ),
    Workload(
        "browser-threads",
        "a browser's sixteen fields",
        HELLO,
        BROWSERS,
        apps.HELLO,
        (Target("total", 1.03, ONE_THREAD),),
        seconds=1.2,
        times=2,
        only=CREW,
        subject=BJOERN_THREADS,
    ),
    Workload(
        "sleep",
        "every request sleeps 10 ms",
        BUSY,
        (_get(target="/sleep10"),),
        apps.HELLO,
        (Target("rate", 1450, least=True), Target("total", 0.7, BEST)),
        seconds=1.5,
        only=SIXTEEN,
        subject=BJOERN_THREADS,
        shown=("rate", "total"),
    ),
    Workload(
        "beside-sleep",
        "quick requests beside eight clients on a page that sleeps 100 ms",
        BUSY,
        (_get(),),
        apps.HELLO,
        (Target("share", 0.9, least=True), Target("excess", 5.0), Target("slow", 79.0, least=True)),
        connections=32,
        slow=Slow("/sleep100", 8),
        seconds=1.5,
        only=SIXTEEN,
        subject=BJOERN_THREADS,
        shown=("rate", "share", "wait", "excess", "slow"),
    ),
    Workload(
        "beside-compute",
        "quick requests beside one client on a page that computes for 50 ms",
        BUSY,
        (_get(),),
        apps.HELLO,
        (Target("wait", 1.0, with_threads(GUNICORN)),),
        connections=32,
        slow=Slow("/compute50", 1),
        seconds=1.5,
        only=SIXTEEN,
        subject=BJOERN_THREADS,
        shown=("rate", "share", "wait", "excess", "slow"),
    ),
    Workload(
        "loops",
        "free-threaded, two cores, a page that computes for 1 ms",
        BUSY,
        (_get(target="/compute1"),),
        apps.HELLO,
        (Target("rate", 1.7, ONE_LOOP, least=True),),
        seconds=1.5,
        only=(TWO_LOOPS, ONE_LOOP),
        subject=TWO_LOOPS,
        shown=("rate", "total"),
        cores=2,
    ),
)
