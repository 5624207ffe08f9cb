"""The command `bjoern [OPTIONS] MODULE:APP`: arguments in, one line out, then a server.

Knows: flags, variables, messages and exit codes.
Must not know: how options are checked, addresses bound or applications found.
Exit codes: 0 done, 1 the system refused (an address in use, a right missing), 2 usage, 3 no worker can be started,
4 the application cannot be loaded, 130 interrupted, 131 after SIGQUIT; killed by SIGTERM after SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from . import __version__, addresses, loader, messages, options, systemd
from .addresses import Address, InheritedAddress, TcpAddress
from .options import HANDOVER, Options
from .privileges import Identity
from .server import DEFAULT_ADDRESS, Server, announcement, pin_access_log, url_of
from .sockets import Listener, bind_all

EXIT_SYSTEM, EXIT_USAGE, EXIT_APP, EXIT_INTERRUPTED = 1, 2, 4, 130

SHELLS = ("bash", "zsh", "fish")

# The groups of options in the order of --help.
GROUPS = (
    "where to listen",
    "processes",
    "concurrency",
    "limits",
    "timeouts",
    "protocol",
    "behind a proxy",
    "logs",
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process."""
    try:
        sys.exit(_run(parser().strictly(arguments)))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _run(chosen: argparse.Namespace) -> int:
    try:
        # Resolved before the application is imported, which may change the environment.
        resolved = Options.resolve("bjoern", _keywords(chosen), scope="command")
        if chosen.app is None:  # asked last: where a flag lacks its value, it took the application for it
            parser().error("the following arguments are required: MODULE:APP")
        messages.configure(resolved.log_level, resolved.log_format)
        binds = _binds(chosen, resolved, os.environ)
    except ValueError as error:
        _fail(EXIT_USAGE, str(error))
    for warning in options.misspelt(os.environ, "command"):
        messages.warning(warning)
    from .supervisor import starting_directory

    directory = starting_directory()
    try:
        _settle_down(resolved)
    except OSError as error:
        _fail(EXIT_SYSTEM, _explained(error))
    try:
        if chosen.check:
            Identity(resolved.user, resolved.group)
            _load(chosen.app)
            return 0
        if resolved.watched or HANDOVER in os.environ or systemd.watchdog_wanted():
            _supervise(chosen.app, resolved, binds, directory)
        else:
            from .signals import heed_early

            heed_early()
            _serve(_load(chosen.app), resolved, binds)
    except ValueError as error:
        _fail(EXIT_USAGE, str(error))
    except socket.gaierror as error:
        _fail(EXIT_USAGE, str(error.strerror))
    except OSError as error:
        _fail(EXIT_SYSTEM, _explained(error))
    return 0


def _load(target: str) -> Any:
    try:
        return loader.load(target)
    except loader.LoadError as error:
        _fail(EXIT_APP, str(error), error.details)


def _serve(app: Any, resolved: Options, binds: Sequence[Address]) -> None:
    """Serves in this process."""
    from .signals import is_default

    notifier = systemd.Notifier()
    server = Server(app, binds, reuse_port=resolved.reuse_port, backlog=resolved.backlog, **resolved.server_keywords())

    def reopen(number: int, frame: Any) -> None:
        try:
            server.reopen_logs()
        except OSError as error:
            messages.error(f"{error.filename}: {error.strerror}; the one before is written to")

    def ready() -> None:
        if is_default(signal.SIGUSR1):  # else the application has its own idea of it
            signal.signal(signal.SIGUSR1, reopen)
        messages.write("info", announcement([url_of(one) for one in server.addresses], resolved), bare=True)
        notifier.send("READY=1")

    server.run(ready=ready)


def _supervise(target: str, resolved: Options, binds: Sequence[Address], directory: str) -> None:
    """Serves in workers."""
    from .supervisor import serve

    def bind() -> list[Listener]:
        return bind_all(binds, reuse_port=resolved.reuse_port, backlog=resolved.backlog)

    serve(lambda: loader.load(target), resolved, bind, directory)


def _settle_down(resolved: Options) -> None:
    """Makes this process's place in the system the one that is asked for. Raises OSError."""
    if resolved.chdir is not None:
        try:
            os.chdir(resolved.chdir)
        except OSError as error:
            raise OSError(error.errno, f"cannot change to {resolved.chdir}: {error.strerror}") from None
        os.environ["PWD"] = os.path.abspath(resolved.chdir)
    pin_access_log(resolved)
    if resolved.umask is not None:
        os.umask(resolved.umask)
    for folder in reversed(resolved.pythonpath):
        sys.path.insert(0, os.path.abspath(folder))


def parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        prog="bjoern",
        usage="bjoern [OPTIONS] MODULE:APP",
        description="Serve a WSGI application.",
        epilog="SIZE is 65536, 64K, 512M or 1G; TIME is 30, 0.5, 500ms, 30s or 5m. Every option is also a variable, "
        "BJOERN_KEEP_ALIVE for --keep-alive; the flag goes first. PORT, WEB_CONCURRENCY (for --workers), "
        "FORWARDED_ALLOW_IPS and systemd's LISTEN_FDS are heeded, too.",
        formatter_class=lambda prog: argparse.HelpFormatter(
            prog, max_help_position=26, width=min(shutil.get_terminal_size().columns, 80) - 1
        ),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "app",
        metavar="MODULE:APP",
        nargs="?",
        help="the application: hello:app, hello:make(), or hello for hello:application",
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    version = f"bjoern {__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    parser.add_argument("--check", action="store_true", help="load the application, check the options, and exit")
    parser.add_argument(
        "--completion",
        metavar="SHELL",
        choices=SHELLS,
        action=_Completion,
        help="show the completion for bash, zsh or fish, and exit",
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for option in options.OPTIONS:
        kind: dict[str, Any] = {"metavar": option.unit.metavar}
        if option.unit is options.SWITCH:
            kind = {"action": argparse.BooleanOptionalAction}
        elif option.unit in (options.ADDRESSES, options.PATHS):
            kind["action"] = "append"
        elif option.unit is options.LOG:
            kind.update(nargs="?", const="-")
        help = f"{option.help} (default: {option.unit.show(option.default)})"
        help = help.replace("%", "%%")  # argparse fills in what looks like a place
        names = [option.short] if option.short else []
        groups[option.group].add_argument(*names, options.flag(option), default=None, help=help, **kind)
        if option.name == "bind":
            groups[option.group].add_argument("--host", help="the host of --bind HOST:PORT")
            groups[option.group].add_argument("--port", metavar="N", help="its port; 0 for a free one")
    return parser


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        from .completion import script

        print(script(given[1]), end="")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def strictly(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """As parse_args, but says what an unknown flag may be meant to be."""
        chosen, unknown = self.parse_known_args(arguments)
        for argument in unknown:
            from difflib import get_close_matches

            flags = self._option_string_actions if argument.startswith("-") else ()
            near = get_close_matches(argument.partition("=")[0], flags, n=1)
            self.error(f"unknown argument {argument}" + (f"; did you mean {near[0]}?" if near else ""))
        if chosen.app is None:
            for option in options.OPTIONS:  # what such a flag took for its file was the last argument
                given = getattr(chosen, option.name)
                if option.unit is options.LOG and given not in (None, "", "-") and os.sep not in given:
                    chosen.app = given
                    setattr(chosen, option.name, "-")
        return chosen

    def error(self, message: str) -> NoReturn:
        message = message.replace("ignored explicit argument", "it takes no value, got")
        _fail(EXIT_USAGE, f"{message} (see bjoern --help)")


def _keywords(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options given as flags, by keyword. Raises ValueError naming the flag."""
    keywords = {}
    for option in options.OPTIONS:
        given = getattr(chosen, option.name)
        if isinstance(given, str):
            given = options.parse(option, given, options.flag(option))
        elif given is not None:
            given = options.check(option, given, options.flag(option))
        if given is not None:
            keywords[option.name] = given
    return keywords


def _binds(chosen: argparse.Namespace, resolved: Options, environ: Mapping[str, str]) -> list[Address]:
    """The addresses, from --bind, --host and --port, LISTEN_FDS, BJOERN_BIND, PORT or the default, in this order."""
    inherited = systemd.inherited_descriptors()
    if chosen.bind and (chosen.host is not None or chosen.port is not None):
        raise ValueError("--bind and --host or --port exclude each other; put both into --bind HOST:PORT")
    if chosen.bind:
        return [addresses.parse(text) for text in resolved.bind]
    variable = environ.get("PORT", "").strip()
    port = _labelled("PORT", addresses.port_number, variable or DEFAULT_ADDRESS.port)
    if chosen.host is not None or chosen.port is not None:
        if chosen.port is not None:
            port = _labelled("--port", addresses.port_number, chosen.port)
        return [addresses.from_pair(DEFAULT_ADDRESS.host if chosen.host is None else chosen.host, port)]
    if inherited:
        return [InheritedAddress(number) for number in inherited]
    if resolved.bind:
        return [addresses.parse(text) for text in resolved.bind]
    return [TcpAddress("0.0.0.0" if variable else DEFAULT_ADDRESS.host, port)]


def _labelled(label: str, read: Any, text: Any) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


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


def _fail(code: int, message: str, traceback: str = "") -> NoReturn:
    messages.error(message, traceback=traceback)
    sys.exit(code)
