"""Writes the corpus from the wire cases: `python engine/fuzz/seed.py`. One file a case and target, named by its hash.

The first byte of an input is the length of the pieces it is torn into; see the targets.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
CASES = HERE.parent.parent / "tests" / "cases"
ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
LONGEST = 2000  # bytes of an input: what is longer only slows the fuzzer down
# What no wire case has: the tables that have them are in engine/src/proxies.
V2 = b"\r\n\r\n\0\r\nQUIT\n"
PREFACES = [
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\r\nGET",
    b"PROXY TCP6 2001:db8::1 ::1 4660 80\r\n",
    b"PROXY UNKNOWN\r\n",
    V2 + b"\x21\x11\0\x11" + bytes(range(17)) + b"GET",
    V2 + b"\x21\x21\0\x24" + bytes(range(36)),
    V2 + b"\x21\x31\0\xd8" + bytes(216),
    V2 + b"\x20\0\0\0",
]
CLAIMS = [
    b"Forwarded: for=192.0.2.1;proto=https;host=a, for=10.0.0.2\r\n",
    b'for="[2001:db8::1]:4660";x="\\"',
    b'for=10.0.0.9;x="',
    b"for=_a;by=unknown",
    b"X-Forwarded-For: 192.0.2.1:5, [::1], unknown, unix:\r\nX-Forwarded-Proto: wss\r\n",
    b"X-Forwarded-Host: a:1, [::1]\r\nX-Forwarded-Port: 80, 443\r\n",
]


def unescape(text: str) -> bytes:
    """The bytes of a case's line: see tests/cases/README.md."""

    def piece(match: re.Match[str]) -> bytes:
        if match["count"]:
            return unescape(match["repeated"]) * int(match["count"])
        if match["hex"]:
            return bytes([int(match["hex"], 16)])
        return ESCAPES[match["escape"]] if match["escape"] else match[0].encode()

    pattern = r"\{(?P<repeated>[^{}]*)\*(?P<count>\d+)\}|\\x(?P<hex>[0-9A-Fa-f]{2})|\\(?P<escape>[rnt0\\])|."
    return b"".join(piece(match) for match in re.finditer(pattern, text, re.DOTALL))


def wires() -> list[bytes]:
    """The bytes of every case."""
    found = []
    for path in sorted(CASES.glob("*.txt")):
        lines = ["" if line.startswith("#") else line for line in path.read_text().splitlines()]
        for block in "\n".join(lines).split("\n\n"):
            inside = block.strip().splitlines()[1:-1]
            if inside:
                found.append(unescape("".join(inside).removesuffix("{fin}")))
    return found


def main() -> None:
    for wire in wires():
        _, blank, body = wire.partition(b"\r\n\r\n")
        inputs = {"head": b"\3" + wire, "chunked": b"\3" + body if blank and body else b"", "connection": b"\6" + wire}
        for target, data in inputs.items():
            keep(target, data)
    for number, start in enumerate(PREFACES):
        keep("preface", bytes([number]) + start)
    for number, claim in enumerate(CLAIMS):
        keep("forwarded", bytes([number]) + claim)


def keep(target: str, data: bytes) -> None:
    if 1 < len(data) <= LONGEST:
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
