"""Instructions of one request: callgrind counts those of a server for N and for M requests; the difference tells.

Knows: valgrind, how exact such a count is.   Must not know: what is fast.
Counts do not depend on the machine's load, so that a change of a few percent is a change of the code. They do depend on
the interpreter's build: `instructions.json` has the counts by interpreter, and one that is not in it is only shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from peers import ROOT
from processes import ProcessGroup, free_port
from run import probe
from workloads import WORKLOADS, Workload

BENCH = Path(__file__).resolve().parent
BUDGET = BENCH / "instructions.json"
COUNTED = ("hello", "browser", "post", "pipelined", "close", "stream")
FEW, MANY = 200, 700  # requests; the first two hundred warm up
TOLERANCE = 0.02
START_DEADLINE = 60.0  # seconds; an interpreter under callgrind starts fifty times slower
STOP_DEADLINE = 60.0


def interpreter() -> str:
    """What the counts depend on beside our code."""
    build = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{build} {platform.machine()} {' '.join(platform.libc_ver())} {platform.python_compiler()}"


def _environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'python'}:{BENCH}", "PYTHONHASHSEED": "0"}


def collected(workload: Workload, requests: int) -> int:
    """All instructions in user space of a server's life, from its start to the end of `requests` requests."""
    module, app = workload.application
    port = free_port()
    serve = f"from {module} import {app} as app; import bjoern; bjoern.run(app, '127.0.0.1', {port})"
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", serve]
    with ProcessGroup(command, _environ()) as server:
        server.wait_listening(port, START_DEADLINE)
        probe(dataclasses.replace(workload, probes=requests), port)
        server.process.send_signal(signal.SIGINT)
        server.process.wait(STOP_DEADLINE)
        found = re.search(r"Collected : (\d+)", server.output(lines=100))
        if not found:
            sys.exit(f"callgrind did not count: {server.output()}")
        return int(found[1])


def per_request(workload: Workload) -> int:
    """Instructions of one request; of a pipelined one, too."""
    difference = collected(workload, MANY) - collected(workload, FEW)
    return round(difference / (MANY - FEW) / workload.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts a request's instructions, compares with the last count.")
    parser.add_argument("--update", action="store_true", help="write the counts to bench/instructions.json")
    parser.add_argument("--workload", action="append", choices=COUNTED, help="only this one (may be repeated)")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind is missing: install it (Debian: apt-get install valgrind)")
    # Once without callgrind: Python compiles then what has changed, and no count contains that.
    subprocess.run([sys.executable, "-c", "import apps, bjoern; bjoern.run"], env=_environ(), check=True)
    known = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    budget = known.setdefault(interpreter(), {})
    grown = []
    for workload in WORKLOADS:
        if workload.name not in (options.workload or COUNTED):
            continue
        count, before = per_request(workload), budget.get(workload.name)
        change = f", {count / before - 1:+.1%} from {before:,}" if before else ", no earlier count for this interpreter"
        print(f"{workload.title}: {count:,} instructions{change}", flush=True)
        if before and count > before * (1 + TOLERANCE):
            grown.append(workload.name)
        if options.update:
            budget[workload.name] = count
    if options.update:
        BUDGET.write_text(json.dumps(known, indent=1) + "\n")
    elif grown:
        sys.exit(
            f"more than {TOLERANCE:.0%} more instructions: {', '.join(grown)}. Intended? Then --update, and say why"
        )


if __name__ == "__main__":
    main()
