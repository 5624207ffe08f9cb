"""What `import bjoern` and a server import: little, since it is paid at every start and by every process.

How it works: a program says which modules it has. The milliseconds and megabytes are measured by bench/lightness.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import bjoern

# Each of them costs as much as `import bjoern`, or several times that.
EXPENSIVE = {"collections", "contextlib", "dataclasses", "enum", "functools", "inspect", "re", "socket", "typing"}


def said(program: str) -> list[str]:
    """The words a program prints. It runs without site, which may import anything."""
    path = [folder for folder in sys.path if folder]
    start = f"import sys; sys.path[:] = {path!r}; before = set(sys.modules)\n"
    command = [sys.executable, "-S", "-c", start + program]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


NEW = "print(*(set(sys.modules) - before))"


def test_import_adds_nothing_expensive() -> None:
    added = said(f"import bjoern; {NEW}")
    assert "bjoern.server" in added, "what run() needs before it binds is imported at once"
    others = {name for name in added if name.partition(".")[0] != "bjoern"}
    small = {"__future__", "_thread", "errno", "fcntl", "os", "stat", "_stat", "posixpath", "genericpath"}
    assert others <= small | {"_collections_abc", "abc", "_abc", "io", "os.path"}


def test_expensive_modules_are_expensive_here() -> None:
    assert set(said(f"import dataclasses, socket, contextlib; {NEW}")) >= EXPENSIVE - {"typing"}, "or the list is stale"


def test_server_imports_what_sockets_and_signals_need() -> None:
    added = said(
        "import bjoern\n"
        "address = bjoern.addresses.TcpAddress('127.0.0.1', 0)\n"
        "server = bjoern.Server(lambda environ, start_response: [], address, threads=1)\n"
        f"server.run(ready=server.stop)\n{NEW}"
    )
    assert "socket" in added
    assert not {"dataclasses", "inspect", "ast", "typing", "argparse", "difflib", "threading"} & set(added)


def test_server_in_a_thread_that_threading_does_not_know() -> None:
    program = """
import _thread
from bjoern import Server
from bjoern.addresses import TcpAddress
def serve():
    server = Server(lambda environ, start_response: [], TcpAddress("127.0.0.1", 0))
    server.run(ready=lambda: (print("threading" in sys.modules), server.stop()))
    done.release()
done = _thread.allocate_lock()
done.acquire()
_thread.start_new_thread(serve, ())
print("done" if done.acquire(timeout=30) else "died")
"""
    assert said(program) == ["False", "done"], "it must not be taken for the main thread, which has the signals"


def test_the_socket_module_is_there_for_programs_that_expect_it() -> None:
    assert said("import bjoern; print(bjoern.socket.socket is __import__('socket').socket)") == ["True"]
    with pytest.raises(AttributeError, match=r"^module 'bjoern' has no attribute 'missing'$"):
        bjoern.missing  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        "dataclasses.is_dataclass(Options) and dataclasses.is_dataclass(options)",
        "[field.name for field in dataclasses.fields(Options)][:2] == ['max_head', 'max_fields']",
        "dataclasses.asdict(options)['keep_alive'] == 75.0",
        "dataclasses.replace(options, keep_alive=5).keep_alive == 5.0",
        "Options(keep_alive=5).keep_alive == 5.0",
        "Options(4096).max_head == 4096",
        "Options.max_head == 65536",
        "list(inspect.signature(Options).parameters)[:2] == ['max_head', 'max_fields']",
        "repr(options).startswith('Options(max_head=65536, max_fields=100, ')",
        "options == Options() and not options != Options()",
        "hash(options) == hash(Options())",
        "raised(dataclasses.FrozenInstanceError, lambda: setattr(options, 'keep_alive', 1))",
        "raised(dataclasses.FrozenInstanceError, lambda: delattr(options, 'keep_alive'))",
        "raised(TypeError, lambda: Options(keepalive=5))",
        "raised(ValueError, lambda: Options(keep_alive=-1))",
        "Options.__match_args__[0] == 'max_head'",
        "pickle.loads(pickle.dumps(options)) == options",
        "copy.copy(options) == options",
        "derived().keep_alive == 1.0",
        "dataclasses.make_dataclass('More', [('x', int, 1)], bases=(Options,), frozen=True)(4096).max_head == 4096",
    ],
)
def test_options_is_a_dataclass_from_the_first_look(use: str) -> None:
    """Each use comes first in a program of its own: there, `Options` is not made a dataclass yet."""
    program = f"""
import copy, dataclasses, inspect, pickle
import bjoern
from bjoern import Options
options = Options.resolve("Server", {{}}, {{}})
def raised(kind, call):
    try: call()
    except kind: return True
class derived(Options):
    def __init__(self): super().__init__(keep_alive=1)
assert "__init__" not in vars(Options), "it is made already, so this says nothing"
print({use})
"""
    assert said(program) == ["True"]


def test_options_made_by_two_threads() -> None:
    program = """
import threading
from bjoern import Options
start = threading.Barrier(4)
def make():
    start.wait()
    made.append(Options(keep_alive=5).keep_alive)
made = []
threads = [threading.Thread(target=make) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(made)
"""
    assert "".join(said(program)) == "[5.0,5.0,5.0,5.0]"


def test_options_are_documented_where_they_are_declared() -> None:
    assert inspect.getdoc(bjoern.Options)
    for field in dataclasses.fields(bjoern.Options):
        assert set(field.metadata) == {"unit", "group", "help", "minimum", "scope", "short", "variable"}
