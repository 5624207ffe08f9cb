"""Reads the wire cases and writes what they show as a page: `python tests/cases/document.py > docs/conformance.md`.

Knows: the format of the cases (README.md beside it).   Must not know: servers, sockets.
The page also collects the comments that stand right above a case and begin with `#+` or `#-`: what the server accepts,
or refuses, though it would not have to.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CASES = Path(__file__).parent

_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
_PIECE = re.compile(r"\{([^}]*)\*([0-9]+)\}|\\x([0-9A-Fa-f]{2})|\\([rnt0\\])|([^\\])", re.DOTALL)
_SECTION = re.compile(r"RFC ([0-9]+) ([0-9A-Z]+(?:\.[0-9]+)*)|CVE-([0-9]{4})-([0-9]+)")

_HEAD = """\
# Conformance

<!-- Written by tests/cases/document.py; change the cases, then run it again. -->

What bjoern does with {count} requests, good and bad, by the section of the specification or the vulnerability that each
is about. The requests are files in [tests/cases](../tests/cases). Every test run plays each against the engine in a
simulator and against a server over real sockets: whole, torn apart, and with another request behind.
"""
_ACCEPTED = """\
## Accepted beyond the specification

What the grammar does not allow, or what a server might refuse.
"""
_REFUSED = """\
## Refused beyond the specification

What a server might accept, repair or ignore.
"""


@dataclass(frozen=True)
class Case:
    """One exchange: the bytes a client sends, and what must come back."""

    file: str  # without its suffix
    section: str  # `RFC 9112 3.2`, `CVE-2019-16785`
    title: str
    wire: bytes
    finish: bool  # the client ends its sending direction
    answers: tuple[str, ...]  # `200 GET / ""`, `400`, `100`
    open: bool  # the connection persists
    beyond: str  # `+ reason`, `- reason` or nothing

    def __str__(self) -> str:
        return f"{self.file}: {self.section} | {self.title}"

    @property
    def outcome(self) -> str:
        """The statuses and the end: `200, 400, close`."""
        runs = ((status, len(list(run))) for status, run in itertools.groupby(answer[:3] for answer in self.answers))
        statuses = [status if count == 1 else f"{count} times {status}" for status, count in runs]
        return ", ".join([*statuses, "open" if self.open else "close"])


def read_cases() -> list[Case]:
    """All cases, file by file. Raises ValueError naming the file and the case that is not in the format."""
    return [case for path in sorted(CASES.glob("*.txt")) for case in _read_file(path)]


def _read_file(path: Path) -> Iterator[Case]:
    for block in re.split(r"\n{2,}", path.read_text("utf-8").strip()):
        lines = block.split("\n")
        comments = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
        if lines := lines[len(comments) :]:
            beyond = " ".join(comment[1:] for comment in comments if comment[1:2] in ("+", "-"))
            try:
                yield _read_case(path.stem, lines, beyond)
            except ValueError as error:
                raise ValueError(f"{path.name}: {lines[0]}: {error}") from None


def _read_case(file: str, lines: list[str], beyond: str) -> Case:
    section, bar, title = lines[0].partition(" | ")
    if not bar or not _SECTION.fullmatch(section):
        raise ValueError("the first line must be a section or a CVE, ' | ' and a title")
    if not lines[-1].startswith("=> "):
        raise ValueError("the last line must begin with '=> '")
    *answers, end = (answer.strip() for answer in lines[-1][3:].split(";"))
    if end not in ("open", "close"):
        raise ValueError(f"the answers must end in open or close, not {end!r}")
    text = "".join(lines[1:-1])
    wire = unescape(text.removesuffix("{fin}"))
    return Case(file, section, title, wire, text.endswith("{fin}"), tuple(answers), end == "open", beyond)


def unescape(text: str) -> bytes:
    r"""The bytes that `\r \n \t \0 \\ \xHH` and `{piece*count}` stand for. Raises ValueError for any other escape."""
    data, at = b"", 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if not match:
            raise ValueError(f"an unknown escape: {text[at : at + 4]!r}")
        piece, count, code, name, plain = match.groups()
        if count:
            data += unescape(piece) * int(count)
        elif code:
            data += bytes.fromhex(code)
        else:
            data += _ESCAPES[name] if name else plain.encode()
        at = match.end()
    return data


def _place(section: str) -> tuple[object, ...]:
    """Where a section stands: RFCs by number and section, then vulnerabilities by year and number."""
    rfc, part, year, number = _match(section).groups()
    if year:
        return (1, int(year), int(number))
    return (0, int(rfc), [(not step.isdigit(), step.zfill(4)) for step in part.split(".")])


def _link(section: str) -> str:
    rfc, part, year, _ = _match(section).groups()
    if year:
        return f"[{section}](https://www.cve.org/CVERecord?id={section})"
    kind = "section" if part[0].isdigit() else "appendix"
    return f"[RFC {rfc}, {kind} {part}](https://www.rfc-editor.org/rfc/rfc{rfc}#{kind}-{part})"


def _match(section: str) -> re.Match[str]:
    match = _SECTION.fullmatch(section)
    assert match, section
    return match


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing to interpret."""
    return re.sub(r"[*_<`|\\]", r"\\\g<0>", text)


def _beyond(cases: list[Case], sign: str) -> Iterator[str]:
    for case in cases:
        if case.beyond.startswith(sign):
            yield f"- {case.beyond[1:].strip()} ({_link(case.section)}; `{case.file}`: {_plain(case.title)})"


def document(cases: list[Case]) -> str:
    """The page, in Markdown."""
    lines = [_HEAD.format(count=len(cases))]
    lines += [_ACCEPTED, *_beyond(cases, "+"), "", _REFUSED, *_beyond(cases, "-"), ""]
    lines += [
        "## By section",
        "",
        "| section | cases | files | what is shown, and what comes back |",
        "|---|---|---|---|",
    ]
    for section in sorted({case.section for case in cases}, key=_place):
        here = [case for case in cases if case.section == section]
        files = ", ".join(f"`{file}`" for file in sorted({case.file for case in here}))
        titles = "<br>".join(f"{_plain(case.title)}: **{case.outcome}**" for case in here)
        lines.append(f"| {_link(section)} | {len(here)} | {files} | {titles} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(document(read_cases()), end="")
