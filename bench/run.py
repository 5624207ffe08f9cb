"""The driver: every server under every workload, in turn, round after round; writes the results as JSON.

Knows: cores, wrk, the order of things, what makes an answer right.
Must not know: how results are shown, what is a good one.
Invariant: a number stands for right answers only; who cannot do a workload is left out of it, with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import io
import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import peers
import report
from peers import EVERYONE, LOOPS, OWN, PEERS, ROOT, Peer
from processes import CpuTime, ProcessGroup, free_port
from workloads import THREADED, WORKLOADS, Workload

import apps

BENCH = Path(__file__).resolve().parent
EVERYTHING = (*WORKLOADS, *THREADED)
NAMESPACE = "BENCH_NAMESPACE"  # set where this process has its own loopback
PROBE_DEADLINE = 5.0  # seconds for one right answer
WRK_DEADLINE = 20.0  # seconds that wrk may take to end once it is told to


class Unfit(Exception):
    """A server cannot do a workload; the text says why."""


@dataclass(frozen=True)
class Sample:
    """One measurement. Times per request in microseconds of CPU, all processes of the server together."""

    round: int
    requests: int
    seconds: float
    cpu_us: float
    user_us: float
    kernel_us: float
    busy: float  # share of its core that the server used; well below 1: the client was the limit
    p50_us: int
    p99_us: int
    pss: int  # bytes, at the end
    # In the same process, before the clients beside came: `cpu_us`, requests a second, `p99_us`.
    alone_us: float | None = None
    alone_rate: float | None = None
    alone_p99_us: int | None = None
    slow_rate: float | None = None  # answers a second that the slow clients had, all together


class Driver:
    """What all measurements share: the cores, the scratch folder, the servers' environment."""

    def __init__(self, scratch: Path, factor: float, free_threaded: str | None) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            sys.exit("two cores are needed, one for the client and one for the server: else each measures the other")
        self.cores, self.client_core = cores, cores[0]
        self.free_threaded = free_threaded
        self.scratch = scratch
        self.factor = factor
        (scratch / "large").write_bytes(apps.LARGE)
        # Nothing of the caller's: options of a server are variables, too.
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(scratch),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(BENCH),
            "BENCH_FILE": str(scratch / "large"),
        }

    def measure(self, peer: Peer, workload: Workload, round: int) -> Sample:
        """Starts the server, checks its answers, loads it. Raises Unfit where it does not answer rightly."""
        port = free_port()
        module, app = workload.application
        places = {"bin": str(peers.ENVIRONMENT / "bin"), "module": module, "app": app, "port": str(port)}
        places["free_threaded"] = self.free_threaded or ""
        environ = dict(self.environ)
        if peer.distribution == OWN:
            environ["PYTHONPATH"] = f"{ROOT / 'python'}:{BENCH}"
        command = [part.format(**places) for part in peer.command]
        with ProcessGroup(command, environ, self.cores[-workload.cores :]) as server:
            try:
                server.wait_listening(port)
                probe(workload, port)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Unfit(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None
            sample = self.load(server, workload, port, round)
            if not (workload.idle or workload.slow):
                return sample
            company = self.accompany(workload, port)
            try:
                beside = self.load(server, workload, port, round)
            finally:
                said = company.communicate()[0]
            return replace(
                beside,
                alone_us=sample.cpu_us,
                alone_rate=sample.requests / sample.seconds,
                alone_p99_us=sample.p99_us,
                slow_rate=_slow_rate(said) if workload.slow else None,
            )

    def load(self, server: ProcessGroup, workload: Workload, port: int, round: int) -> Sample:
        """One run of wrk, ended by SIGINT, at which it sums up."""
        requests = self.scratch / f"requests-{workload.name}"
        if not requests.exists():
            requests.write_bytes(b"".join(b"%d\n%s" % (len(one), one) for one in workload.requests))
        command = ["taskset", "-c", str(self.client_core), "wrk", "-t1", f"-c{workload.connections}", "-d60s"]
        command += ["--timeout", "5s", "-s", str(BENCH / "client" / "load.lua"), f"http://127.0.0.1:{port}/"]
        before = server.cpu()
        wrk = subprocess.Popen(
            [*command, "--", str(requests)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                wrk.wait(workload.seconds * self.factor)
            wrk.send_signal(signal.SIGINT)
            output = wrk.communicate(timeout=WRK_DEADLINE)[0]
        finally:
            wrk.kill()
        used = server.cpu() - before
        return _sample(server, workload, used, output, round)

    def accompany(self, workload: Workload, port: int) -> subprocess.Popen[str]:
        """The clients beside, each of which has had an answer. Raises Unfit where the server does not answer them all.

        They are a process that says how many they are, and goes on until its standard input ends.
        """
        program, clients, arguments = _company(workload)
        command = ["taskset", "-c", str(self.client_core), sys.executable, str(BENCH / "client" / program)]
        company = subprocess.Popen(
            [*command, str(port), str(clients), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert company.stdout is not None
        said = company.stdout.readline().strip()
        if said != str(clients):
            company.communicate()
            raise Unfit(f"of {clients:,} clients beside the load, it answered: {said}")
        return company


def _company(workload: Workload) -> tuple[str, int, tuple[str, ...]]:
    """The program with the clients beside, how many they are, its other arguments."""
    if workload.slow:
        return "slow.py", workload.slow.clients, (workload.slow.target, workload.body.decode())
    return "idle.py", workload.idle, ()


def _slow_rate(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        raise Unfit(f"a slow client beside the load: {said.strip()}") from None


def _sample(server: ProcessGroup, workload: Workload, used: CpuTime, output: str, round: int) -> Sample:
    try:
        counted = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise Unfit(f"wrk failed: {output.strip() or 'no output'}") from None
    requests, errors = counted["requests"], {name: n for name, n in counted["errors"].items() if n}
    if not requests:
        raise Unfit(f"answered nothing under load: {errors or server.output()}")
    if workload.closes:
        errors.pop("read", None)  # a server that does not announce its close is read from once more
    if sum(errors.values()) > requests / 1000:
        raise Unfit(f"errors under load: {errors} beside {requests} answers")
    each = used.total * 1e6 / requests
    share = used.user / ((used.user + used.system) or 1)
    return Sample(
        round,
        requests,
        counted["seconds"],
        each,
        each * share,
        each * (1 - share),
        used.total / counted["seconds"],
        counted["p50_us"],
        counted["p99_us"],
        server.pss(),
    )


class _Kept(io.BufferedReader):
    """A reader for one response after another: http.client closes its reader after each."""

    def makefile(self, *_: Any, **__: Any) -> _Kept:
        return self

    def close(self) -> None:
        pass


def probe(workload: Workload, port: int) -> None:
    """Asks as the load will, and compares: OSError, HTTPException or ValueError where an answer is wrong."""
    asked = 0
    while asked < workload.probes:
        with socket.create_connection(("127.0.0.1", port), PROBE_DEADLINE) as connection:
            reader = _Kept(socket.SocketIO(connection, "r"))
            open_still = True
            while asked < workload.probes and open_still:
                connection.sendall(workload.requests[asked % len(workload.requests)])
                for _ in range(workload.answers):
                    open_still = _check_one(reader, workload) and not workload.closes
                asked += 1


def _check_one(reader: _Kept, workload: Workload) -> bool:
    """Whether the connection stays open after this answer."""
    response = http.client.HTTPResponse(reader)  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    if response.status != 200:
        raise ValueError(f"answered {response.status}")
    if body != workload.body:
        raise ValueError(f"a body of {len(body):,} bytes, not the {len(workload.body):,} expected")
    return not response.will_close


def own_loopback() -> None:
    """Goes on in a network namespace, where one can be had: no other traffic, and a congestion control of our choice.

    On some machines the default is bbr, which paces; on a loopback interface that measures its timers.
    """
    if NAMESPACE in os.environ or not (shutil.which("unshare") and shutil.which("ip")):
        return
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        return
    up = 'ip link set lo up && exec "$@"'
    os.environ[NAMESPACE] = "1"
    os.execvp("unshare", [*unshare, "sh", "-c", up, "sh", sys.executable, *sys.argv])


def set_network() -> None:
    """In a namespace of our own: reno, which every namespace may use and which does not pace, and ports enough."""
    if NAMESPACE in os.environ:
        for name, value in (("tcp_congestion_control", "reno"), ("ip_local_port_range", "2048 65535")):
            Path(f"/proc/sys/net/ipv4/{name}").write_text(value)


def machine() -> dict[str, str]:
    """What the numbers depend on beside the code."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    answer = subprocess.run([peers.PYTHON, "-VV"], check=True, capture_output=True, text=True)
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "threads_of_a_core": _siblings(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": answer.stdout.strip(),
        "libc": " ".join(platform.libc_ver()),
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }


def _siblings() -> str:
    """The logical cores that share the first one's hardware: on such a pair client and server slow each other down."""
    with suppress(OSError):
        return Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text().strip()
    return "unknown"


def participants(names: Sequence[str], free_threaded: str | None) -> tuple[list[Peer], dict[str, str]]:
    """The peers that are there, and why the others are not."""
    missing = peers.unavailable()
    chosen = [peer for peer in EVERYONE if not names or peer.name in names]
    absent = {
        peer.name: f"not installed: {missing[peer.distribution]}" for peer in chosen if peer.distribution in missing
    }
    if reason := peers.lacks_free_threading(free_threaded):
        absent |= {peer.name: reason for peer in chosen if peer in LOOPS}
    return [peer for peer in chosen if peer.name not in absent], absent


def takes_part(peer: Peer, workload: Workload) -> bool:
    return peer.name in workload.only if workload.only else peer in PEERS


def take_turns(driver: Driver, present: Sequence[Peer], workload: Workload, rounds: int) -> dict[str, dict[str, Any]]:
    """All rounds of one workload: A B C, C B A, ..., so that a machine that grows slower is fair to all."""
    asked = [peer for peer in present if takes_part(peer, workload)]
    cells: dict[str, dict[str, Any]] = {peer.name: {"samples": []} for peer in asked}
    for round in range(rounds if asked else 0):
        for peer in asked if round % 2 == 0 else reversed(asked):
            cell = cells[peer.name]
            if "unfit" in cell or round % peer.every:
                continue
            try:
                cell["samples"].append(asdict(driver.measure(peer, workload, round)))
            except Unfit as reason:
                cell["unfit"] = str(reason)
        print(f"{workload.name}: round {round + 1} of {rounds}", file=sys.stderr, flush=True)
    return {name: cell for name, cell in cells.items() if cell["samples"] or "unfit" in cell}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures WSGI servers side by side: CPU time of the server per request."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every workload (default: 5)")
    parser.add_argument("--factor", type=float, default=1.0, help="times each measurement's length (default: 1)")
    parser.add_argument("--quick", action="store_true", help="two short rounds: rough numbers, in a file of their own")
    parser.add_argument("--workload", action="append", default=[], choices=[one.name for one in EVERYTHING])
    parser.add_argument("--threads", action="store_true", help="only the workloads of docs/concurrency.md")
    parser.add_argument("--peer", action="append", default=[], choices=[one.name for one in EVERYONE])
    parser.add_argument(
        "--free-threaded",
        metavar="PYTHON",
        default=os.environ.get("BENCH_FREE_THREADED"),
        help="a free-threaded interpreter that this checkout is built for (default: $BENCH_FREE_THREADED)",
    )
    parser.add_argument("--out", type=Path, help="where the results go (default: bench/results.json and the like)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.factor = 2, 0.6
    if options.threads:
        options.workload += [one.name for one in THREADED]
    name = "quick" if options.quick else "threads" if options.threads else "results"
    options.out = options.out or BENCH / f"{name}.json"
    return options


def check_tools() -> None:
    for tool in ("wrk", "taskset"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: install it (Debian: apt-get install wrk util-linux)")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # servers and idle connections inherit it


def main() -> None:
    options = parse()
    check_tools()
    own_loopback()
    set_network()
    present, absent = participants(options.peer, options.free_threaded)
    started = time.monotonic()
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": _versions(present, options.free_threaded),
        "rounds": options.rounds,
        "absent": absent,
        "workloads": {},
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        driver = Driver(Path(scratch), options.factor, options.free_threaded)
        for workload in EVERYTHING:
            if not options.workload or workload.name in options.workload:
                rounds = options.rounds * workload.times
                results["workloads"][workload.name] = take_turns(driver, present, workload, rounds)
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(report.text(results))


def _versions(present: Sequence[Peer], free_threaded: str | None) -> Mapping[str, str]:
    installed = peers.versions()
    own = subprocess.run(
        [peers.PYTHON, "-c", "import bjoern; print(bjoern.__version__)"],
        env={"PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
    )
    if own.returncode:
        sys.exit(f"the extension is not built for {peers.PYTHON}: `make build` first\n{own.stderr}")
    names = {peer.distribution for peer in present} | {"flask", "django"}
    found = {"bjoern-rs": own.stdout.strip()} | {name: installed[name] for name in sorted(names) if name in installed}
    if free_threaded and any(peer in LOOPS for peer in present):
        asked = [free_threaded, "-c", "import platform; print(platform.python_version())"]
        answer = subprocess.run(asked, check=True, capture_output=True, text=True)
        found["free-threaded CPython"] = answer.stdout.strip()
    return found


if __name__ == "__main__":
    main()
