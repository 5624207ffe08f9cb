"""The command `bjoern [OPTIONS] MODULE:APP`: arguments in, one line out, then a server.

Knows: flags, variables, messages and exit codes.
Must not know: how options are checked, addresses bound or applications found.
Exit codes: 0 done, 1 the system refused (an address in use, a right missing), 2 usage, 4 the application cannot be
loaded, 130 interrupted; killed by SIGTERM after SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from . import __version__, addresses, loader, options
from .addresses import Address, TcpAddress
from .options import Options
from .server import DEFAULT_ADDRESS, Server, url_of
from .sockets import DEFAULT_LISTEN_BACKLOG

EXIT_SYSTEM, EXIT_USAGE, EXIT_APP, EXIT_INTERRUPTED = 1, 2, 4, 130

_GROUPS = {
    "concurrency": "concurrency",
    "limits": "limits",
    "timeouts": "timeouts (TIME: 30, 0.5, 500ms, 30s, 5m)",
    "logs": "logs",
    "protocol": "protocol",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process."""
    try:
        sys.exit(_serve(_parser().strictly(arguments)))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _serve(chosen: argparse.Namespace) -> int:
    try:
        # Resolved before the application is imported, which may change the environment.
        keywords = vars(Options.resolve("bjoern", _keywords(chosen)))
        binds = _binds(chosen, os.environ)
    except ValueError as error:
        _fail(EXIT_USAGE, str(error))
    try:
        app = loader.load(chosen.app)
    except loader.LoadError as error:
        sys.stderr.write(error.details)
        _fail(EXIT_APP, str(error))
    if chosen.check:
        return 0
    try:
        server = Server(app, binds, reuse_port=chosen.reuse_port, backlog=chosen.backlog, **keywords)
        server.run(ready=lambda: print(_announcement(server), file=sys.stderr, flush=True))
    except socket.gaierror as error:
        _fail(EXIT_USAGE, str(error.strerror))
    except OSError as error:
        _fail(EXIT_SYSTEM, _explained(error))
    return 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="bjoern",
        usage="bjoern [OPTIONS] MODULE:APP",
        description="Serve a WSGI application.",
        epilog="Every option is also a variable, BJOERN_KEEP_ALIVE for --keep-alive; the flag goes first.",
        formatter_class=lambda prog: argparse.HelpFormatter(
            prog, max_help_position=26, width=min(shutil.get_terminal_size().columns, 80) - 1
        ),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "app", metavar="MODULE:APP", help="the application: hello:app, hello:make(), or hello for hello:application"
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    version = f"bjoern {__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    parser.add_argument("--check", action="store_true", help="load the application, check the options, and exit")

    where = parser.add_argument_group("where to listen")
    where.add_argument(
        "-b",
        "--bind",
        metavar="ADDR",
        action="append",
        help="HOST:PORT, [IPV6]:PORT, unix:/PATH, unix:@NAME or fd://N; may be given again "
        f"(default: {DEFAULT_ADDRESS}, or 0.0.0.0:$PORT where PORT is set)",
    )
    where.add_argument("--host", help="the host of --bind HOST:PORT")
    where.add_argument("--port", metavar="N", help="its port; 0 for a free one")
    where.add_argument(
        "--backlog",
        metavar="N",
        type=_backlog,
        default=DEFAULT_LISTEN_BACKLOG,
        help="connections the system queues for the server (default: %(default)s)",
    )
    where.add_argument("--reuse-port", action="store_true", help="let other processes bind the same port")

    groups = {name: parser.add_argument_group(title) for name, title in _GROUPS.items()}
    for option in options.OPTIONS:
        kind: dict[str, Any] = {"metavar": option.unit.metavar}
        if option.unit is options.SWITCH:
            kind = {"action": argparse.BooleanOptionalAction}
        help = f"{option.help} (default: {option.unit.show(option.default)})"
        help = help.replace("%", "%%")  # argparse fills in what looks like a place
        groups[option.group].add_argument(options.flag(option), default=None, help=help, **kind)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def strictly(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """As parse_args, but says what an unknown flag may be meant to be."""
        chosen, unknown = self.parse_known_args(arguments)
        for argument in unknown:
            from difflib import get_close_matches

            near = get_close_matches(argument.partition("=")[0], self._option_string_actions, n=1)
            self.error(f"unknown argument {argument}" + (f"; did you mean {near[0]}?" if near else ""))
        return chosen

    def error(self, message: str) -> NoReturn:
        _fail(EXIT_USAGE, f"{message} (see bjoern --help)")


def _backlog(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}")
    return int(text)


def _keywords(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options given as flags, by keyword. Raises ValueError naming the flag."""
    keywords = {}
    for option in options.OPTIONS:
        given = getattr(chosen, option.name)
        if isinstance(given, str):
            given = options.parse(option, given, options.flag(option))
        if given is not None:
            keywords[option.name] = given
    return keywords


def _binds(chosen: argparse.Namespace, environ: Mapping[str, str]) -> list[Address]:
    """The addresses, from --bind, --host and --port, BJOERN_BIND, PORT or the default, in this order."""
    if chosen.bind and (chosen.host is not None or chosen.port is not None):
        raise ValueError("--bind and --host or --port exclude each other; put both into --bind HOST:PORT")
    if chosen.bind:
        return [_labelled("--bind", addresses.parse, text) for text in chosen.bind]
    port = _labelled("PORT", addresses.port_number, environ.get("PORT") or DEFAULT_ADDRESS.port)
    if chosen.host is not None or chosen.port is not None:
        if chosen.port is not None:
            port = _labelled("--port", addresses.port_number, chosen.port)
        return [addresses.from_pair(DEFAULT_ADDRESS.host if chosen.host is None else chosen.host, port)]
    if named := environ.get("BJOERN_BIND", "").replace(",", " ").split():
        return [_labelled("BJOERN_BIND", addresses.parse, text) for text in named]
    return [TcpAddress("0.0.0.0" if environ.get("PORT") else DEFAULT_ADDRESS.host, port)]


def _labelled(label: str, read: Any, text: Any) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _announcement(server: Server) -> str:
    where = ", ".join(map(url_of, server.addresses))
    count = server.options.threads
    threads = "1 thread" if count == 1 else f"{count} threads"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"bjoern {__version__} listening on {where} (pid {os.getpid()}, {python}, {threads})"


def _explained(error: OSError) -> str:
    """An error of the system; one of binding with the address and the flag to try."""
    if error.filename is None:
        return error.strerror or str(error)
    try:
        address = addresses.parse(error.filename)
    except ValueError:  # a file
        return f"{error.filename}: {error.strerror}"
    if error.errno == errno.EADDRINUSE and isinstance(address, TcpAddress):
        other = TcpAddress(address.host, address.port % 65535 + 1)
        return f"address already in use: {address} (another server? try --bind {other})"
    return f"{address}: {error.strerror}"


def _fail(code: int, message: str) -> NoReturn:
    print(f"bjoern: error: {message}", file=sys.stderr)
    sys.exit(code)
