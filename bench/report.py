"""What the results say: medians, ratios, tables, the chart, and the parts of the documents that are made from them.

Knows: the form of the results, Markdown, SVG.
Must not know: how anything is measured.
Run as a program it writes the tables into README.md, docs/performance.md and docs/concurrency.md, between
`<!-- bench NAME -->` and `<!-- /bench -->`, and the chart to docs/performance.svg.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from peers import BJOERN, BJOERN_3, CREWS, EVERYONE, GUNICORN, LOOPS, OWN, PEERS, Peer
from workloads import BEST, BEST_WHOLE, ITSELF, NOBODY, THREADED, WORKLOADS, Measure, Target, Workload

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results.json")
CHART = ROOT / "docs" / "performance.svg"
# Each document and a workload without which it has nothing to say: `run.py --threads` measures for the last one only.
DOCUMENTS = {
    ROOT / "README.md": "hello",
    ROOT / "docs" / "performance.md": "hello",
    ROOT / "docs" / "concurrency.md": "hello-threads",
}
COLLECTING = {peer.name for peer in PEERS if peer.collects_bodies}
OURS = {peer.name for peer in EVERYONE if peer.distribution == OWN}

Results = dict[str, Any]
Cell = dict[str, Any]


def cpu(cell: Cell, measure: Literal["total", "user"] = "total") -> float | None:
    """Microseconds of CPU a request, or None where nothing was measured.

    The total is the median of the rounds. The user's share is that of all rounds together: the kernel only samples it.
    """
    samples: list[dict[str, float]] = cell["samples"]
    if not samples or "unfit" in cell:
        return None
    total: float = median(sample["cpu_us"] for sample in samples)
    if measure == "total":
        return total
    spent = sum(sample["cpu_us"] * sample["requests"] for sample in samples)
    return total * sum(sample["user_us"] * sample["requests"] for sample in samples) / spent


def middle(cell: Cell, field: str) -> float:
    """The median of one field over the rounds."""
    value: float = median(sample[field] for sample in cell["samples"])
    return value


def _median(sample: Callable[[dict[str, float]], float]) -> Callable[[Cell], float | None]:
    """The median of what `sample` makes of each round, or None where nothing was measured."""

    def value(cell: Cell) -> float | None:
        rounds = [] if "unfit" in cell else cell["samples"]
        return median(sample(round) for round in rounds) if rounds else None

    return value


# What is read of one round, for what two servers can be compared by.
ROUND: dict[Measure, Callable[[dict[str, float]], float]] = {
    "total": lambda one: one["cpu_us"],
    "rate": lambda one: one["requests"] / one["seconds"],
    "wait": lambda one: one["p99_us"] / 1e3,
}

# What each measure is called, with its unit, and how it is read from a cell.
MEASURES: dict[Measure, tuple[str, Callable[[Cell], float | None]]] = {
    "total": ("CPU time a request, µs", cpu),
    "user": ("CPU time a request in user space, µs", lambda cell: cpu(cell, "user")),
    "rate": ("answers a second", _median(ROUND["rate"])),
    "wait": ("99th percentile of the wait, ms", _median(ROUND["wait"])),
    "share": (
        "of the rate without the slow",
        _median(lambda one: one["requests"] / one["seconds"] / one["alone_rate"]),
    ),
    "excess": (
        "99th percentile, ms more than without the slow",
        _median(lambda one: (one["p99_us"] - one["alone_p99_us"]) / 1e3),
    ),
    "slow": ("answers a second to the slow", _median(lambda one: one["slow_rate"])),
}


def reference(target: Target, cells: dict[str, Cell]) -> tuple[str, float] | None:
    """Whom a target compares with, and that one's number: for BEST, the peer that has the least of this."""
    if target.against == NOBODY:
        return NOBODY, 1.0
    if target.against == ITSELF:
        alone = [sample["alone_us"] for sample in cells.get(BJOERN, {"samples": []})["samples"]]
        return (ITSELF, median(alone)) if alone else None
    if target.against in (BEST, BEST_WHOLE):
        names = [name for name in cells if name not in OURS and (target.against == BEST or name in COLLECTING)]
    else:
        names = [target.against]
    of = MEASURES[target.measure][1]
    found = [(name, value) for name in names if name in cells and (value := of(cells[name]))]
    return min(found, key=lambda pair: pair[1], default=None)


def targets(results: Results, workloads: Sequence[Workload]) -> list[tuple[Workload, Target, str, float]]:
    """Every target that was measured: the workload, the target, whom it was compared with, the ratio (or number)."""
    rows = []
    for workload in workloads:
        cells = results["workloads"].get(workload.name, {})
        for target in workload.targets:
            mine = MEASURES[target.measure][1](cells.get(workload.subject, {"samples": []}))
            other = reference(target, cells)
            if other and mine is not None:
                name, value = other
                ratio = _ratio(target.measure, cells[workload.subject], cells.get(name))
                rows.append((workload, target, name, mine / value if ratio is None else ratio))
    return rows


def _ratio(measure: Measure, mine: Cell, other: Cell | None) -> float | None:
    """The median of the ratios of each round, in which one server follows the other: a machine may be slow for minutes.

    None for what is not compared by rounds.
    """
    if measure not in ROUND or other is None:
        return None
    of = ROUND[measure]
    others = {one["round"]: of(one) for one in other["samples"]}
    found = [of(one) / others[one["round"]] for one in mine["samples"] if one["round"] in others]
    return median(found) if found else None


def table(results: Results) -> str:
    """Markdown: a row a workload, a column a server, microseconds of CPU a request (user's part in brackets)."""
    names = [peer.name for peer in PEERS if any(peer.name in cells for cells in results["workloads"].values())]
    lines = ["| CPU time of the server per request, µs (in user space) | " + " | ".join(names) + " |"]
    lines.append("|---|" + "---:|" * len(names))
    for workload in WORKLOADS:
        if cells := results["workloads"].get(workload.name):
            lines.append(f"| {workload.title} | " + " | ".join(_entry(cells.get(name)) for name in names) + " |")
    return "\n".join(lines) + "\n"


# What a reader in a hurry wants to know, in the README.
SHORT = ("hello", "browser", "post", "close", "flask")


def short(results: Results) -> str:
    """Markdown: a row for each of a few workloads; this server, its ancestor, two others."""
    lines = [f"| CPU time of the server per request, µs | {BJOERN} | {BJOERN_3} | best of the others | {GUNICORN} |"]
    lines.append("|---|---:|---:|---:|---:|")
    for workload in WORKLOADS:
        cells = results["workloads"].get(workload.name)
        if workload.name not in SHORT or not cells:
            continue
        times = {name: total for name, cell in cells.items() if (total := cpu(cell))}
        others = {name: total for name, total in times.items() if name not in (BJOERN, BJOERN_3, GUNICORN)}
        best = min(others, key=others.__getitem__, default="")
        row = [f"**{number(time)}**" if time == min(times.values()) else number(time) for time in times.values()]
        shown = dict(zip(times, row, strict=True))
        entries = [shown.get(name, "-") + (f" ({name})" if name == best else "") for name in (BJOERN, BJOERN_3, best)]
        lines.append(f"| {workload.title} | {' | '.join(entries)} | {shown.get(GUNICORN, '-')} |")
    return "\n".join(lines) + "\n"


def _entry(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    total, user = cpu(cell), cpu(cell, "user")
    return "✗" if total is None or user is None else f"{number(total)} ({number(user)})"


def number(value: float) -> str:
    """Three figures are more than the measurement is good for."""
    size = abs(value)
    return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"


def ratios(results: Results) -> str:
    """Markdown: the targets, and what was measured."""
    lines = ["| workload | measure | against | at most | measured | |", "|---|---|---|---:|---:|---|"]
    for workload, target, name, ratio in targets(results, WORKLOADS):
        lines.append(
            f"| {workload.title} | {target.measure} | {_against(target, name)} | {target.limit:.2f} | {ratio:.2f} "
            f"| {_verdict(target, ratio)} |"
        )
    return "\n".join(lines) + "\n"


def _against(target: Target, name: str) -> str:
    return name if name == target.against else f"{target.against}: {name}"


def _verdict(target: Target, measured: float) -> str:
    met = measured >= target.limit if target.least else measured <= target.limit
    return "met" if met else "not met"


def threads(results: Results) -> str:
    """Markdown: servers with threads, a row for each number that a workload shows."""
    asked = {name for workload in THREADED for name in results["workloads"].get(workload.name, {})}
    names = [peer.name for peer in (*CREWS, *LOOPS) if peer.name in asked]
    if not names:
        return "Not measured.\n"
    lines = ["| | " + " | ".join(["", *names]) + " |", "|---|---|" + "---:|" * len(names)]
    for workload in THREADED:
        if cells := results["workloads"].get(workload.name):
            lines += [_threads_row(workload, measure, cells, names) for measure in workload.shown]
    return "\n".join(lines) + "\n"


def _threads_row(workload: Workload, measure: Measure, cells: dict[str, Cell], names: Sequence[str]) -> str:
    title, of = MEASURES[measure]
    entries = []
    for name in names:
        value = of(cells[name]) if name in cells else None
        entries.append(number(value) if value is not None else "✗" if name in cells else "-")
    return f"| {workload.title if measure == workload.shown[0] else ''} | {title} | {' | '.join(entries)} |"


def thread_targets(results: Results) -> str:
    """Markdown: the targets of the servers with threads, and what was measured."""
    lines = ["| workload | measure | against | target | measured | |", "|---|---|---|---:|---:|---|"]
    for workload, target, name, value in targets(results, THREADED):
        bound = f"at {'least' if target.least else 'most'} {number(target.limit)}"
        lines.append(
            f"| {workload.title} | {MEASURES[target.measure][0]} | {_against(target, name)} | {bound} "
            f"| {number(value)} | {_verdict(target, value)} |"
        )
    return "\n".join(lines) + "\n"


def memory(results: Results) -> str:
    """Markdown: memory, rate and latency after the hello workload."""
    lines = [
        "| | memory (PSS), MB | requests/s | median wait, µs | share of its core used |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, cell in results["workloads"].get("hello", {}).items():
        if cpu(cell):
            rate = median(sample["requests"] / sample["seconds"] for sample in cell["samples"])
            used = f"{min(1.0, middle(cell, 'busy')):.0%}"
            lines.append(
                f"| {name} | {middle(cell, 'pss') / 1e6:.1f} | {rate:,.0f} | {middle(cell, 'p50_us'):,.0f} | {used} |"
            )
    return "\n".join(lines) + "\n"


def unfit(results: Results) -> str:
    """Markdown: what is not in the table, and why."""
    return _left_out(results, PEERS, WORKLOADS) or "Every server did every workload.\n"


def thread_unfit(results: Results) -> str:
    """Markdown: what is not in the tables of servers with threads, and why."""
    return _left_out(results, (*CREWS, *LOOPS), THREADED) or "Every server did what it was asked.\n"


def _left_out(results: Results, peers: Sequence[Peer], workloads: Sequence[Workload]) -> str:
    absent = {peer.name: results["absent"][peer.name] for peer in peers if peer.name in results["absent"]}
    lines = [f"- {name}: {_inline(reason)}." for name, reason in absent.items()]
    for workload in workloads:
        for name, cell in results["workloads"].get(workload.name, {}).items():
            if "unfit" in cell:
                lines.append(f"- {workload.title}, {name}: {_inline(cell['unfit'])}.")
    return "".join(f"{line}\n" for line in lines)


def _inline(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split())[:160].rstrip(".") + "`"


def where(results: Results) -> str:
    """Markdown: date, machine and versions."""
    machine, versions = results["machine"], results["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{results['date']}; {machine['cpu']}, {machine['cores']} cores, {machine['memory']}; {machine['kernel']}, "
        f"{machine['congestion_control']}, {machine['libc']}; {machine['python']}; "
        f"{results['rounds']} rounds. {named}.\n"
    )


def spread(results: Results) -> str:
    """Markdown: how far the rounds are apart."""
    found = []
    for workload in WORKLOADS:
        for name, cell in results["workloads"].get(workload.name, {}).items():
            times = [sample["cpu_us"] for sample in cell["samples"]]
            if len(times) > 1 and "unfit" not in cell:
                found.append(((max(times) - min(times)) / median(times), f"{name}, {workload.title}"))
    if not found:
        return "There was one round: nothing to compare.\n"
    furthest, who = max(found)
    return (
        f"Between a server's dearest and cheapest round of a workload lie {median(far for far, _ in found):.0%} of its "
        f"time in the median, {furthest:.0%} at the most ({who}).\n"
    )


# The chart's panels: what most people's servers do most of the time.
PANELS = ("hello", "browser", "post", "close", "flask", "django")
WIDTH, PANEL, ROW, LABEL, TOP = 860, 430, 18, 120, 70
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 13px }
.small { font-size: 11px; fill: #57606a } .own .user { fill: #0a7f4f } .own .kernel { fill: #6fc5a0 }
.user { fill: #57606a } .kernel { fill: #b6bec6 } .own text { font-weight: 600 }
.paper { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117 }
  text { fill: #e6edf3 } .small { fill: #9198a1 } .user { fill: #9198a1 } .kernel { fill: #4b535d }
  .own .user { fill: #3fb984 } .own .kernel { fill: #1f6b4a }
}"""


def chart(results: Results) -> str:
    """SVG: a panel a workload, a bar a server, the user part in front; a bar too long for its panel is broken.

    It has a background of its own, for a page may be dark where the reader's system prefers light, and the other way.
    """
    panels = [workload for workload in WORKLOADS if workload.name in PANELS and workload.name in results["workloads"]]
    height = (max((len(results["workloads"][panel.name]) for panel in panels), default=0) + 2) * ROW + 14
    on = results["machine"]
    machine = f"{on['python'].split(' (')[0]}; {on['kernel']}; {on['cpu']}; one core for the server; {results['date']}"
    parts = [
        '<rect class="paper" width="100%" height="100%" rx="6"/>',
        '<text class="title" x="10" y="20">CPU time of the server per request, microseconds (shorter is better)</text>',
        '<text class="small" x="10" y="38">left part: in user space; right part: in the kernel, '
        "mostly loopback TCP; a broken bar is longer than drawn</text>",
        f'<text class="small" x="10" y="54">{html.escape(machine)}</text>',
    ]
    for place, panel in enumerate(panels):
        x, y = (place % 2) * PANEL, TOP + (place // 2) * height
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel, results["workloads"][panel.name])}</g>')
    total = TOP + (len(panels) + 1) // 2 * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        f'role="img" aria-label="CPU time of WSGI servers per request">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(workload: Workload, cells: dict[str, Cell]) -> str:
    rows = [(name, total, cpu(cell, "user") or 0.0) for name, cell in cells.items() if (total := cpu(cell))]
    own = next((total for name, total, _ in rows if name == BJOERN), None)
    room = PANEL - LABEL - 110
    # Six times ours fills the room: the ones to compare with are near, the far ones are cut off and say their number.
    scale = room / min(max((total for _, total, _ in rows), default=1.0), 6 * (own or 1e9))
    parts = [f'<text class="title" x="10" y="16">{html.escape(workload.title)}</text>']
    for row, (name, total, user) in enumerate(rows):
        y = 26 + row * ROW
        whole = min(total * scale, room)
        dark = whole * user / total
        times = f"{number(total)}" + (f" · {total / own:.1f}×" if own and name != BJOERN else "")  # noqa: RUF001
        end = LABEL + 6 + whole
        gap = f"M{end - 16:.1f} {y + ROW - 4}l5 {5 - ROW}h4l-5 {ROW - 5}z"
        cut = f'<path class="paper" d="{gap}"/>' if total * scale > room + 0.5 else ""
        parts.append(
            f"<g{' class=' + chr(34) + 'own' + chr(34) if name == BJOERN else ''}>"
            f'<text x="{LABEL}" y="{y + 11}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect class="kernel" x="{LABEL + 6}" y="{y + 1}" width="{whole:.1f}" height="{ROW - 5}"/>'
            f'<rect class="user" x="{LABEL + 6}" y="{y + 1}" width="{dark:.1f}" height="{ROW - 5}"/>'
            f'{cut}<text class="small" x="{end + 4:.1f}" y="{y + 11}">{times}</text></g>'
        )
    return "".join(parts)


def text(results: Results) -> str:
    """For a terminal."""
    parts = [where(results)]
    if any(workload.name in results["workloads"] for workload in WORKLOADS):
        parts += [spread(results), table(results), ratios(results), memory(results), unfit(results)]
    if any(workload.name in results["workloads"] for workload in THREADED):
        parts += [threads(results), thread_targets(results), thread_unfit(results)]
    return "\n".join(parts) + f"\n{results['minutes']} minutes\n"


SECTIONS = {
    "where": where,
    "spread": spread,
    "table": table,
    "short": short,
    "ratios": ratios,
    "memory": memory,
    "unfit": unfit,
    "threads": threads,
    "thread_targets": thread_targets,
    "thread_unfit": thread_unfit,
}


def fill(document: str, results: Results) -> str:
    """The document with its marked sections made anew. Raises KeyError for a section that does not exist."""

    def made(found: re.Match[str]) -> str:
        return f"<!-- bench {found[1]} -->\n{SECTIONS[found[1]](results)}<!-- /bench -->"

    return re.sub(r"<!-- bench (\w+) -->.*?<!-- /bench -->", made, document, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Shows the results, and writes them into the documents.")
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--write", action="store_true", help="fill the documents, draw the chart")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    if not options.write:
        print(text(results))
        return
    if "hello" in results["workloads"]:
        CHART.write_text(chart(results))
    for document in (one for one, workload in DOCUMENTS.items() if workload in results["workloads"]):
        document.write_text(fill(document.read_text(), results))


if __name__ == "__main__":
    main()
