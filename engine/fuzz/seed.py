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
            if 1 < len(data) <= LONGEST:
                folder = HERE / "corpus" / target
                folder.mkdir(parents=True, exist_ok=True)
                (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
