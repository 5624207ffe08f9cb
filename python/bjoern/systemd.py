"""systemd's two protocols: sd_notify(3) tells it how the service is, sd_listen_fds(3) takes its sockets.

Knows: their variables, and a datagram.
Must not know: what a service does, and that there is a library for it.
Invariant: the variables are taken out of the environment, so that no child believes they are meant for it.
"""

from __future__ import annotations

import os

FIRST_DESCRIPTOR = 3


class Notifier:
    """The service manager, which wants to know; without NOTIFY_SOCKET nobody does, and nothing is sent."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        period, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        for_us = pid in ("", str(os.getpid()))
        # Seconds between two signs of life, half of what is waited for as sd_watchdog_enabled(3) asks; 0: none wanted.
        self.period = int(period) / 2e6 if self._address and period.isdigit() and for_us else 0.0

    def send(self, *assignments: str) -> None:
        """Sends "READY=1" and the like, best effort."""
        if not self._address:
            return
        import socket

        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(assignments).encode(), address)
        except OSError:
            pass  # the manager is gone: there is nobody to tell

    def reloading(self) -> None:
        import time

        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_wanted() -> bool:
    """Whether signs of life are asked for, which a supervisor alone can give."""
    return bool(os.environ.get("NOTIFY_SOCKET")) and os.environ.get("WATCHDOG_USEC", "").isdigit()


def inherited_descriptors() -> list[int]:
    """The listening descriptors that were passed to this process, once."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)))
