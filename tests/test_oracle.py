"""h11 as the oracle: what the server accepts, h11 must accept too, and see the same method, target and body in it.

Knows: h11's parser, the server of `mirror.py`, the wire cases as seeds.   Must not know: how the server parses.
Where the server is the more lenient one on purpose, `LENIENT` says so, with an example that keeps the entry honest.
Where h11 is, nothing is compared: the server may refuse more. `ORACLE_EXAMPLES=10000` asks for more and other examples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import h11
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cases.document import Case, read_cases
from mirror import Mirror, saw

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", 0))


class Lenient(NamedTuple):
    """Something that the server accepts and h11 does not."""

    reason: str
    wire: re.Pattern[bytes]  # what the bytes look like
    complaint: str  # the start of what h11 says
    example: bytes


LENIENT = [
    Lenient(
        "A blank line before a request should be ignored (RFC 9112, section 2.2).",
        re.compile(rb"(?:^|.)\r\n[!-~]+ [!-~]+ HTTP/", re.DOTALL),
        "no request line received",
        b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
    Lenient(
        "HTTP/1.0 persists where the client asks for it (RFC 9112, section 9.3).",
        re.compile(rb"HTTP/1\.0\r\n(?:[^\r\n]+\r\n)*connection:[^\r\n]*keep-alive", re.IGNORECASE),
        "closed",
        b"GET / HTTP/1.0\r\nA: b\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
    Lenient(
        "Empty elements of a list are ignored (RFC 9110, section 5.6.1.2).",
        re.compile(rb"\r\ntransfer-encoding:(?:[ \t]*,[^\r\n]*|[^\r\n]*,[ \t]*|[ \t]*)\r\n", re.IGNORECASE),
        "Only Transfer-Encoding: chunked is supported",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
    ),
    Lenient(
        "Lines of one list are joined, so one may be empty (RFC 9110, section 5.3).",
        re.compile(rb"\r\ntransfer-encoding:[ \t,]*\r\n", re.IGNORECASE),
        "multiple Transfer-Encoding headers",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: ,\r\n\r\n0\r\n\r\n",
    ),
    Lenient(
        "Blanks may stand before a chunk's extension (RFC 9112, section 7.1.1).",
        re.compile(rb"[0-9A-Fa-f][ \t]+;"),
        "illegal chunk header",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 ;a\r\nabc\r\n0\r\n\r\n",
    ),
    Lenient(
        "A chunk's size may have any number of leading zeros (RFC 9112, section 7.1); h11 reads twenty digits.",
        re.compile(rb"0{10}[0-9A-Fa-f]{11}"),
        "illegal chunk header",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 21 + b"\r\n\r\n",
    ),
    Lenient(
        "Framing fields in a trailer section mean nothing (RFC 9110, section 6.5.1), not even where they are bad.",
        re.compile(rb"\r\n0+[^\r\n]*\r\n(?:[^\r\n]+\r\n)*(?:content-length|transfer-encoding):", re.IGNORECASE),
        "",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: x\r\n\r\n",
    ),
]


def consult(wire: bytes) -> Iterator[str]:
    """What h11 sees in the requests of `wire`, one by one; raises `h11.RemoteProtocolError` at what it refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(wire)
    while True:
        body = b""
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return
        while not isinstance(piece := connection.next_event(), h11.EndOfMessage):
            if not isinstance(piece, h11.Data):
                return
            body += piece.data
        yield saw(request.method, request.target, body)
        connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is h11.MUST_CLOSE:
            raise h11.RemoteProtocolError("closed")
        connection.start_next_cycle()


def compare(wire: bytes, mirror: Mirror) -> int:
    """How many requests both accepted. Raises AssertionError where the server alone did, unless `LENIENT` says why."""
    answers, _ = mirror.exchange([wire], finish=True)
    accepted = [answer.removeprefix("200 ") for answer in answers if answer.startswith("200")]
    oracle = consult(wire)
    for number, seen in enumerate(accepted):
        try:
            expected = next(oracle, "nothing")
        except h11.RemoteProtocolError as complaint:
            if any(str(complaint).startswith(entry.complaint) and entry.wire.search(wire) for entry in LENIENT):
                return number
            raise AssertionError(f"the server accepted {seen}; h11 says: {complaint}") from None
        assert seen == expected, f"the server saw {seen}, h11 saw {expected}"
    return len(accepted)


# --- requests, well-formed or nearly so ---

METHODS = st.sampled_from(
    [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"CONNECT", b"get", b"X-Y", b"P\tST"]
)
TARGETS = st.one_of(
    st.sampled_from([b"/", b"/a?b=c", b"//a", b"/%41", b"/a#b", b"http://h/a"]),
    st.sampled_from([b"/", b"/%4", b"/\xc3\xbc", b"/ a", b"*", b"http://u@h/", b"h:80"]),
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0"] * 4 + [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.1 ", b""])
HOSTS = st.sampled_from([b"Host: h"] * 8 + [b"Host:", b"host:\th:80 ", b"Host: a b", b"Host : h", b"A: b"])
FIELDS = st.sampled_from(
    [
        b"A: b",
        b"A:",
        b"A:\t b\xff ",
        b"Cookie: a=b; c",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: a,, Close",
        b"Content-Length: 3",
        b"Content-Length: 3, 3",
        b"Content-Length: 03",
        b"Content-Length: +3",
        b"Content_Length: 9",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked ",
        b"Transfer-Encoding: , chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: \x0bchunked",
        b"TE: trailers",
        b"Expect: 100-continue",
        b"Upgrade: h2c",
        b" folded",
        b"A : b",
        b"A\0: b",
        b"A: b\rc",
    ]
)
FRAMED = st.sampled_from(
    [
        (b"", b""),
        (b"Content-Length: 0\r\n", b""),
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Content-Length: 3,3\r\n", b"a\r\n"),
        (b"Content-Length: 4\r\n", b"abc"),
        (b"Content-Length: 70\r\n", b"x" * 70),
    ]
)
SIZES = st.sampled_from([b"%x", b"%X", b"00%x", b"0x%x", b"%x ", b"%x;a", b'%x ; a="b"', b"+%x"])
CHUNK_ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"", b"XX"])
TRAILERS = st.sampled_from([b""] * 6 + [b"A: b\r\n", b"A: b\r\nContent-Length: 5\r\n", b"A b\r\n", b"A: b\n"])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    chunks = []
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)):
        size = draw(st.one_of(st.just(b"%x"), SIZES)) % len(data)
        chunks.append(size + b"\r\n" + data + draw(CHUNK_ENDS))
    return b"Transfer-Encoding: chunked\r\n", b"".join(chunks) + b"0\r\n" + draw(TRAILERS) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    plain = draw(st.booleans())  # half of them are well-formed as far as the head goes
    line = b"GET / HTTP/1.1" if plain else b" ".join([draw(METHODS), draw(TARGETS), draw(VERSIONS)])
    fields = [b"Host: h"] if plain else [draw(HOSTS), *draw(st.lists(FIELDS, max_size=3))]
    framing, body = draw(st.one_of(FRAMED, chunked_bodies()))
    return b"\r\n".join([line, *fields, framing + b"\r\n" + body])


# --- mutations ---

CASES = read_cases()
SEEDS = [case.wire for case in CASES if len(case.wire) < 1000]  # bytes; mutations of a long one mostly miss the point
MORSELS = st.one_of(
    st.binary(min_size=1, max_size=1),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b"\x0b", b",", b";", b":", b"0", b"1", b"\x7f"]),
    st.sampled_from([b"\r\n\r\n", b"chunked", b"0\r\n\r\n", b"Content-Length: 1\r\n", b"Connection: close\r\n"]),
)


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """One to three requests, some of them from the wire cases, with up to two mutations."""
    wire = b"".join(draw(st.lists(st.one_of(requests(), requests(), st.sampled_from(SEEDS)), min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(wire)))
        removed = draw(st.integers(0, 2))
        wire = wire[:at] + draw(st.one_of(st.just(b""), MORSELS)) + wire[at + removed :]
    return wire


@pytest.fixture(scope="module")
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        yield server


@settings(
    max_examples=EXAMPLES or 300,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(wire=wires())
def test_h11_accepts_what_the_server_accepts(mirror: Mirror, wire: bytes) -> None:
    event(f"{compare(wire, mirror)} accepted by both")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_h11_accepts_the_cases_that_the_server_accepts(mirror: Mirror, case: Case) -> None:
    compare(case.wire, mirror)


@pytest.mark.parametrize("entry", LENIENT, ids=lambda entry: entry.reason)
def test_what_is_lenient_is_so(mirror: Mirror, entry: Lenient) -> None:
    """Every entry of the list is needed, and hides no more than it says: without it its example fails."""
    answers, _ = mirror.exchange([entry.example], finish=True)
    assert all(answer.startswith("200 ") for answer in answers), answers
    assert entry.wire.search(entry.example)
    with pytest.raises(h11.RemoteProtocolError, match=f"^{re.escape(entry.complaint)}"):
        list(consult(entry.example))
