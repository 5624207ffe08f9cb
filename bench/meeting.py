"""A page that is answered once as many threads as MEETING says (a variable) serve it at the same time.

Knows: WSGI, threads.   Must not know: whose threads they are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from apps import hello

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATIENCE = 5.0  # seconds
barrier = threading.Barrier(int(os.environ["MEETING"]))


def meet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Raises threading.BrokenBarrierError where the others do not come."""
    barrier.wait(PATIENCE)
    return hello(environ, start_response)
