"""The arrows of ARCHITECTURE.md: who may import whom.

Knows: how Rust and Python name what they import.   Must not know: what the modules do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = ("engine/src/http1", "engine/src/io")  # what is in these folders imports nothing else of the engine


def modules(source: Path) -> dict[str, set[str]]:
    """Each module of a crate, a folder being one, and the modules it imports. What only tests import does not count."""
    imports: dict[str, set[str]] = {}
    for path in sorted(source.rglob("*.rs")):
        name = path.relative_to(source).with_suffix("").parts[0]
        if name == "lib" or path.stem in ("tests", "model"):
            continue
        text = path.read_text().split("#[cfg(test)]")[0]
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
        imports.setdefault(name, set()).update(set(re.findall(r"\bcrate::(\w+)", code)) - {name})
    return {name: imported & imports.keys() for name, imported in imports.items()}


def circles(imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """The shortest way from each module back to itself, where there is one."""
    for start in imports:
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop(0)
            for module in imports[way[-1]] - seen:
                if module == start:
                    yield [*way, start]
                seen.add(module)
                ways.append([*way, module])


@pytest.mark.parametrize("crate", ["engine", "binding"])
def test_no_module_imports_one_that_imports_it(crate: str) -> None:
    imports = modules(ROOT / crate / "src")
    assert len(imports) > 8
    assert [" -> ".join(circle) for circle in circles(imports)] == []


def test_a_circle_is_found() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()})) == [["b", "c", "b"], ["c", "b", "c"]]


@pytest.mark.parametrize("folder", LEAVES)
def test_leaves_import_nothing_else_of_the_engine(folder: str) -> None:
    name = Path(folder).name
    assert modules(ROOT / "engine/src")[name] == set()


def test_the_engine_cannot_name_python() -> None:
    manifest = (ROOT / "engine/Cargo.toml").read_text()
    assert "pyo3" not in manifest and "python" not in manifest.lower().split("[dependencies]")[1]
