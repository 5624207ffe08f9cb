"""Applications that break the rules or break down; the path names the function. `/well` does neither."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ, argument, dispatch, named, valid

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

RETURNED: dict[str, Any] = {
    "none": None,
    "int": 42,
    "str": "text",
    "list_of_str": ["text"],
    "list_of_int": [1],
    "list_of_none": [None],
    "bytearray": bytearray(b"x"),
    "list_of_bytearray": [bytearray(b"x")],
    "object": object(),
    "list_with_str": [b"x", "text"],
}
KINDS = [Exception, BaseException, RecursionError, MemoryError, StopIteration, GeneratorExit]
ERRORS: dict[str, type[BaseException]] = {kind.__name__: kind for kind in KINDS}


@valid
def well(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "4")])
    return [b"well"]


def returned(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return RETURNED[argument(environ, "what")]


def failure(environ: Environ) -> BaseException:
    return ERRORS.get(argument(environ, "error"), ValueError)("on purpose")


def before(environ: Environ, start_response: StartResponse) -> Any:
    raise failure(environ)


def after(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    raise failure(environ)


def in_first_block(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    if environ:
        raise failure(environ)
    yield b""


def in_second_block(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    raise failure(environ)


def late_str(environ: Environ, start_response: StartResponse) -> Iterator[Any]:
    start_response("200 OK", [TEXT])
    yield b"x"
    yield "text"


def in_iter(environ: Environ, start_response: StartResponse) -> Any:
    class Unwilling:
        def __iter__(self) -> Iterator[bytes]:
            raise failure(environ)

    start_response("200 OK", [TEXT])
    return Unwilling()


def silent(environ: Environ, start_response: StartResponse) -> Any:
    return [b"I never called start_response"]


def silent_empty(environ: Environ, start_response: StartResponse) -> Any:
    return []


def silent_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b"I never called start_response"


def wrong_write(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])("text")  # type: ignore[arg-type]
    return []


def unprintable(environ: Environ, start_response: StartResponse) -> Any:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("not even its name")

    raise Unprintable


def bad_errors(environ: Environ, start_response: StartResponse) -> Any:
    """The next traceback has nowhere to go."""
    sys.stderr.close()
    raise ValueError


def leave(environ: Environ, start_response: StartResponse) -> Any:
    """`sys.exit(code)`, in the application or (`late`) in its second block."""
    code = argument(environ, "code", "7")
    if argument(environ, "late"):

        def late() -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b"first"
            sys.exit(int(code))

        return late()
    raise SystemExit(int(code) if code.isdigit() else code)


def interrupted(environ: Environ, start_response: StartResponse) -> Any:
    raise KeyboardInterrupt


FUNCTIONS = [before, after, in_first_block, in_second_block, late_str, in_iter, silent, silent_empty, silent_generator]
app = dispatch(named(*FUNCTIONS, returned, wrong_write, unprintable, bad_errors, leave, interrupted) | {"well": well})
