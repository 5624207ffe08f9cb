# The compiled module: the engine and its binding to WSGI. The docstrings are in the module itself.

from collections.abc import Callable, Iterator, Sequence
from mmap import mmap
from types import FrameType
from typing import Any, Protocol, final

from _typeshed.wsgi import WSGIApplication

from .options import Options
from .sockets import SocketLike

__all__ = [
    "BOARD_BYTES",
    "Engine",
    "FileWrapper",
    "RequestTimeout",
    "SignalHandler",
    "board_names",
    "check_access_log_format",
    "features",
    "note_fork",
    "server_run",
    "signal_handler",
    "version",
]

BOARD_BYTES: int

version: tuple[int, int, int]
features: dict[str, bool]

class RequestTimeout(BaseException): ...

@final
class SignalHandler:
    def __new__(cls, handler: Callable[[int, FrameType | None], object], /) -> SignalHandler: ...
    def __call__(self, number: int, frame: FrameType | None, /) -> None: ...

class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

@final
class FileWrapper:
    def __new__(cls, file: _Readable, blocksize: int | None = None, /) -> FileWrapper: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...

@final
class Engine:
    def __new__(
        cls,
        app: WSGIApplication,
        listeners: Sequence[int],
        options: Options,
        draining: Callable[[], object] | None = None,
        unfinished: Callable[[list[str]], object] | None = None,
        board: bytearray | memoryview | mmap | None = None,
        worker: int = 0,
    ) -> Engine: ...
    @property
    def wakeup_fd(self) -> int: ...
    @property
    def listening(self) -> list[int]: ...
    @property
    def at_work(self) -> int: ...
    def run(self) -> None: ...
    def work(self) -> None: ...
    def stop(self, graceful: bool = True) -> None: ...
    def close(self) -> None: ...
    def reopen_logs(self) -> None: ...
    def stats(self) -> dict[str, int]: ...

def board_names() -> list[str]: ...
def check_access_log_format(format: str) -> None: ...
def note_fork(in_parent: bool) -> None: ...
def signal_handler(number: int) -> int: ...
def server_run(sock: SocketLike, wsgi_app: WSGIApplication, *_statsd: Any) -> None: ...
