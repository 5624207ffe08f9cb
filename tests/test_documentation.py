"""The commands in docs/running.md and the README are commands: their flags and values are checked as by `--check`.

How it works: each line of an example that begins with `bjoern`, and those in units and container files, is parsed.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from bjoern import cli, options

ROOT = Path(__file__).parent.parent


def commands() -> list[list[str]]:
    found = []
    for page in ("README.md", "docs/running.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for line in re.findall(r"^(?:    |ExecStart=\S*/)(bjoern .*?)(?: +#.*)?$", text, re.MULTILINE):
            found.append(shlex.split(line)[1:])
        found += [shlex.split(line)[1:] for line in re.findall(r"`(bjoern -[^`]*\w:\w[^`]*)`", text)]
        found += [json.loads(line)[1:] for line in re.findall(r'\["bjoern", .*\]$', text, re.MULTILINE)]
    return [words for words in found if words[0] not in ("[OPTIONS]", "--help") and "--completion" not in words]


def test_some_are_found() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_it_is_a_command(words: list[str]) -> None:
    chosen = cli.parser().strictly(words)
    assert re.fullmatch(r"[\w.]+(:.+)?", chosen.app)
    options.Options.resolve("bjoern", cli._keywords(chosen), {}, scope="command")
