"""The wire cases over real sockets: each whole, with another request behind, and torn apart.

Knows: the cases' format, the server of `mirror.py`.   Must not know: why a case is as it is; that is in its file.
One server plays them all, so a case that spoils the server spoils what follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cases.document import Case, document, read_cases
from mirror import FOLLOW_UP, Mirror

CASES = read_cases()
PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"


@pytest.fixture(scope="module")
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        yield server


def torn(wire: bytes) -> list[bytes]:
    """The wire cut behind its first byte, inside the end of its first line, in the middle and before its last byte."""
    cuts = {1, wire.find(b"\r") + 1, len(wire) // 2, len(wire) - 1}
    inside = sorted(cut for cut in cuts if 0 < cut < len(wire))
    return [wire[start:end] for start, end in pairwise([0, *inside, len(wire)])]


def without_interim(answers: tuple[str, ...] | list[str]) -> list[str]:
    """What comes back where `100` depends on how the bytes arrive."""
    return [answer for answer in answers if answer != "100"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case, mirror: Mirror) -> None:
    assert mirror.exchange([case.wire], case.finish) == (list(case.answers), case.open), "whole"

    expected = without_interim(case.answers)
    answers, left_open = mirror.exchange(torn(case.wire), case.finish)
    assert (without_interim(answers), left_open) == (expected, case.open), "torn"

    if not case.finish:
        answers, left_open = mirror.exchange([case.wire + FOLLOW_UP])
        assert (without_interim(answers), left_open) == (expected, case.open), "another request behind"


def test_titles_are_told_apart() -> None:
    names = [str(case) for case in CASES]
    assert sorted(set(names)) == sorted(names)


def test_the_page_is_what_the_cases_say() -> None:
    assert PAGE.read_text("utf-8") == document(CASES), "run: python tests/cases/document.py > docs/conformance.md"
