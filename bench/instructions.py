"""Instructions of one request: callgrind counts a run of N requests and one of M; the difference tells.

Knows: valgrind, what a count depends on beside our code.   Must not know: what is fast.
Counts are the same on a busy machine and an idle one, so that a change of a few percent is a change of the code.
`instructions.json` has those of the last `--update`: more than that is an error, one that is not there is only shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from peers import ROOT
from processes import ProcessGroup, free_port
from run import probe
from workloads import WORKLOADS, Workload

BENCH = Path(__file__).resolve().parent
BUDGET = BENCH / "instructions.json"
# Not "close": whether its request is there when a connection is accepted is luck, and a third of the instructions.
SERVED = ("hello", "browser", "post", "pipelined", "stream")
# What engine/examples/turn.rs knows: requests an arrival.
TURNS = {"hello": 1, "browser": 1, "post": 1, "pipelined": 16, "close": 1}
NAMES = tuple(dict.fromkeys((*SERVED, *TURNS)))
FEW, MANY = 200, 700  # requests to a server, arrivals in a turn; the first two hundred warm up
START_DEADLINE = 60.0  # seconds; an interpreter under callgrind starts fifty times slower
STOP_DEADLINE = 60.0
TOLERANCE = 0.02
# A call more for each request is news; a buffer that grows now and then is not, nor is one call in a stream's hundreds.
TOLERATED_CALLS, TOLERANCE_OF_CALLS = 0.5, 0.01


@dataclass(frozen=True)
class Cost:
    """What was run in user space, be it in a whole life or for a request."""

    process: float  # instructions, wherever
    own: float  # instructions in the object (program or library) that is ours
    calls: float  # calls from there to other objects: the interpreter, the C library

    def each(self, fewer: Cost, requests: int) -> Cost:
        """What one of the `requests` cost that this run had and the other had not."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(fewer), strict=True)
        return Cost(*((more - less) / requests for more, less in pairs))


def read_profile(profile: Path, ours: Callable[[str], bool]) -> Cost:
    """The costs in callgrind's file, whose form is in valgrind's manual, "Callgrind Format Specification".

    It must have been written with `OUTPUT`: names in full, one line of own cost a function, `calls=` lines with one
    more line each, the cost of the function called, which is counted where that one stands.
    """
    process = own = calls = 0
    here = called = ""
    inclusive = False
    with profile.open() as lines:
        for line in lines:
            if line.startswith("ob="):
                here = called = line[3:].strip()
            elif line.startswith("cob="):
                called = line[4:].strip()
            elif line.startswith("calls="):
                if ours(here) and called != here:
                    calls += int(line[6:].split()[0])
                called, inclusive = here, True
            elif line[0].isdigit():
                cost = 0 if inclusive else int(line.split()[1])
                process += cost
                own += cost if ours(here) else 0
                inclusive = False
    if not own:
        sys.exit(f"callgrind counted nothing of ours among {process:,} instructions: has the extension another name?")
    return Cost(process, own, calls)


OUTPUT = ("--dump-line=no", "--compress-strings=no", "--compress-pos=no")


def _callgrind(profile: Path) -> list[str]:
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", *OUTPUT]


def _serve(command: list[str], workload: Workload, requests: int) -> None:
    """A server's life: it answers `requests`, rightly, and ends."""
    module, app = workload.application
    port = free_port()
    serve = f"from {module} import {app} as app; import bjoern; bjoern.run(app, '127.0.0.1', {port})"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'python'}:{BENCH}", "PYTHONHASHSEED": "0"}
    with ProcessGroup([*command, sys.executable, "-c", serve], environ) as server:
        server.wait_listening(port, START_DEADLINE)
        probe(dataclasses.replace(workload, probes=requests), port)
        server.process.send_signal(signal.SIGINT)
        server.process.wait(STOP_DEADLINE)


def request_cost(workload: Workload, scratch: Path) -> Cost:
    """One request to a server; one of a pipeline, too."""

    def life(requests: int) -> Cost:
        profile = scratch / f"{workload.name}-{requests}"
        _serve(_callgrind(profile), workload, requests)
        return read_profile(profile, lambda path: Path(path).name.startswith("_bjoern."))

    return life(MANY).each(life(FEW), (MANY - FEW) * workload.answers)


def turn_cost(name: str, program: str, scratch: Path) -> Cost:
    """One request in the engine alone, without the network and Python."""

    def life(arrivals: int) -> Cost:
        profile = scratch / f"turn-{name}-{arrivals}"
        command = [*_callgrind(profile), program, name, str(arrivals)]
        subprocess.run(command, check=True, capture_output=True, timeout=STOP_DEADLINE)
        return read_profile(profile, lambda path: path == program)

    return life(MANY).each(life(FEW), (MANY - FEW) * TURNS[name])


def build_turn() -> str:
    """The program's path."""
    command = ["cargo", "build", "--release", "--locked", "--package", "bjoern-engine", "--example", "turn"]
    command += ["--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit("engine/examples/turn.rs could not be built, for the reasons above")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return str(next(message["executable"] for message in messages if message.get("executable")))


@dataclass(frozen=True)
class Count:
    """One number and what it is called in the file: `measure`, what it depends on beside our code (`key`), workload."""

    measure: str
    key: str
    workload: str
    number: float

    def allowed(self, before: float) -> float:
        if self.measure == "calls":
            return before + max(TOLERATED_CALLS, before * TOLERANCE_OF_CALLS)
        return before * (1 + TOLERANCE)

    def __str__(self) -> str:
        return f"{self.number:.1f}" if self.measure == "calls" else f"{self.number:,.0f}"


def counts(served: list[Workload], turns: list[str]) -> Iterator[tuple[str, list[Count]]]:
    """Title and counts of each workload.

    What is ours depends little on the rest. Measured: the extension's own instructions differ by 0.03 % between two
    builds of CPython 3.11 and by up to 3 % between 3.10 and 3.13, the engine's by 0.4 % between two releases of the
    compiler; so their keys are no more than the minor version and the architecture. All instructions of the process
    differ by 10 % between the two builds.
    """
    machine = platform.machine()
    minor = f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])} {machine}"
    build = f"{platform.python_implementation()} {platform.python_version()} {machine}"
    build += f" {' '.join(platform.libc_ver())} {platform.python_compiler()}"
    with tempfile.TemporaryDirectory(prefix="instructions-") as scratch:
        program = build_turn() if turns else ""
        for name in turns:
            cost = turn_cost(name, program, Path(scratch))
            yield f"the engine alone, {name}", [Count("engine", machine, name, cost.own)]
        if served:
            # Once without callgrind: Python compiles then what has changed, and no count contains that.
            _serve([], served[0], 1)
        for workload in served:
            cost = request_cost(workload, Path(scratch))
            yield (
                workload.title,
                [
                    Count("process", build, workload.name, cost.process),
                    Count("extension", minor, workload.name, cost.own),
                    Count("calls", minor, workload.name, cost.calls),
                ],
            )


Budget = dict[str, dict[str, dict[str, float]]]  # measure, key, workload


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Counts a request's instructions: in the engine alone, in a server's process, in the extension, "
        "and the extension's calls to the interpreter and the C library. Compares them with the last counts.",
    )
    parser.add_argument("--update", action="store_true", help="write the counts to bench/instructions.json")
    parser.add_argument("--workload", action="append", choices=NAMES, help="only this one (may be repeated)")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind is missing: install it (Debian: apt-get install valgrind)")
    chosen = options.workload or NAMES
    budget: Budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    more: list[str] = []
    unknown: list[str] = []
    served = [workload for workload in WORKLOADS if workload.name in SERVED and workload.name in chosen]
    for title, counted in counts(served, [name for name in TURNS if name in chosen]):
        shown = []
        for count in counted:
            known = budget.setdefault(count.measure, {}).setdefault(count.key, {})
            before = known.get(count.workload)
            shown.append(f"{count.measure} {count} ({f'{count.number / before - 1:+.1%}' if before else 'new'})")
            if before is None:
                unknown.append(f"{count.measure} of {count.workload} on {count.key}")
            elif count.number > count.allowed(before):
                more.append(f"{title}: {count.measure} {count}, {before:,} before")
            if options.update:
                known[count.workload] = round(count.number, 1 if count.measure == "calls" else None)
        print(f"{title}: {', '.join(shown)}", flush=True)
    if options.update:
        BUDGET.write_text(json.dumps(budget, indent=1, sort_keys=True) + "\n")
        return
    if unknown:
        print(f"Nothing to compare with (make instructions UPDATE=1 records it): {'; '.join(unknown)}")
    if more:
        sys.exit(
            f"More than {TOLERANCE:.0%} more instructions, or more calls, than recorded in bench/instructions.json:\n  "
            + "\n  ".join(more)
            + "\nIf that is meant: make instructions UPDATE=1, and say why"
        )


if __name__ == "__main__":
    main()
