"""wrk as a load: so many connections that are kept, for so long, and what went wrong.

Knows: wrk's command line and what it says.   Must not know: servers, pytest.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from wire import GUARD

_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


@dataclass(frozen=True)
class Summary:
    """What wrk counted."""

    requests: int
    errors: int  # of connections: not made, broken, timed out
    others: int  # answers that are neither 2xx nor 3xx


class Load:
    """A load in the background, from when it is made."""

    def __init__(self, url: str, *, connections: int = 32, seconds: int = 2, fields: tuple[str, ...] = ()) -> None:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        for field in fields:
            command += ["-H", field]
        self.seconds = seconds
        self.process = subprocess.Popen([*command, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self) -> Summary:
        """Waits for its end."""
        try:
            output = self.process.communicate(timeout=self.seconds + GUARD)[0]
        finally:
            self.process.kill()
        requests = re.search(r"(\d+) requests in", output)
        assert requests and self.process.returncode == 0, f"wrk failed:\n{output}"
        errors, others = _ERRORS.search(output), re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        return Summary(
            int(requests[1]),
            sum(map(int, errors.groups())) if errors else 0,
            int(others[1]) if others else 0,
        )
