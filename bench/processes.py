"""A server in a process group of its own: started, asked what it used, ended.

Knows: Linux's /proc and CPU clocks, process groups.
Must not know: HTTP, which server it is, what is measured.
Invariant: a group that was started is ended, whatever happens between.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTime:
    """CPU time of a process group in seconds.

    `total` is exact (the scheduler's own count, in nanoseconds). The kernel only samples where it was spent, at each
    timer tick: `user` needs thousands of ticks to be good to a few percent.
    """

    total: float
    user: float
    system: float

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.total - earlier.total, self.user - earlier.user, self.system - earlier.system)


class ProcessGroup:
    """A command and whatever it starts, in a session of its own, on these `cores` (none: any); its output to a file."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], cores: Sequence[int] = ()) -> None:
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command] if cores else command
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed where the group is ended
        self.process = subprocess.Popen(
            pinned, env=environ, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def output(self, lines: int = 1) -> str:
        """The last lines it wrote, for messages."""
        self.log.seek(0)
        written = self.log.read().strip().splitlines()
        return "\n".join(written[-lines:]).strip() or "it said nothing"

    def wait_listening(self, port: int, deadline: float = 15.0) -> None:
        """Returns once 127.0.0.1:`port` takes connections. Raises ConnectionError saying why it does not."""
        end = time.monotonic() + deadline
        while self.process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise ConnectionError(f"did not start: {self.output()}")

    def pids(self) -> list[int]:
        """The group's processes that are alive."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                try:
                    if os.getpgid(int(entry)) == self.process.pid:
                        found.append(int(entry))
                except ProcessLookupError:
                    continue
        return found

    def cpu(self) -> CpuTime:
        total = user = system = 0.0
        for pid in self.pids():
            # clock_getcpuclockid(3), which Python has for threads only: the clock of a process is -pid - 1, shifted.
            try:
                spent = time.clock_gettime(~pid << 3 | 2)
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended just now
            total += spent
            user += int(fields[11]) / TICKS
            system += int(fields[12]) / TICKS
        return CpuTime(total, user, system)

    def pss(self) -> int:
        """Proportional set size in bytes: what is shared with others is counted in part."""
        total = 0
        for pid in self.pids():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total * 1024


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
