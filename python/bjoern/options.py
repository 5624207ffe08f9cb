"""The options: the one list from which keywords, variables, flags, completion and the documentation derive.

Knows: each option's name, default, unit, limits and help text, who takes it, and how its text form is read.
Must not know: sockets, signals, the command line's other flags, the engine but for its word on a log's format.
Invariant: an `Options` that exists is valid. Adding an option is adding one field to it.
"""

from __future__ import annotations

import os

from .deferred import Deferred, dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

Value = bool | int | float | str | tuple[str, ...] | None

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_SIZE_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB}
_DURATION_SUFFIXES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


# Regular expressions are for what people write: a server without any does not import re.


def _parse_size(text: str) -> int:
    import re

    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if not match:
        raise ValueError
    return int(match[1]) * _SIZE_SUFFIXES[match[2]]


def _parse_duration(text: str) -> float:
    import re

    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", text)
    if not match:
        raise ValueError
    return float(match[1]) * _DURATION_SUFFIXES[match[2]]


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _parse_switch(text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise ValueError
    return _SWITCHES[text.lower()]


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _parse_mask(text: str) -> int:
    return int(text, 8) if text.isascii() and text.isdigit() else int("")


def _parse_requests(text: str) -> int | str:
    around(text)
    return _parse_count(text) if text.isdigit() else text


def around(value: int | str) -> tuple[int, int]:
    """A number of requests, and how many more it may be: of "1000~50", of "1000" or 1000. Raises ValueError."""
    count, tilde, jitter = str(value).partition("~")
    number = _parse_count(count)
    return number, _parse_count(jitter) if tilde else number // 10


def drawn(value: int | str) -> int:
    """A number of requests with its share of luck, so that workers that began together do not end together."""
    number, jitter = around(value)
    return number + int.from_bytes(os.urandom(8), "big") % (jitter + 1) if number else 0


def _show_size(value: Any) -> str:
    suffix = next((s for s, factor in (("G", GIB), ("M", MIB), ("K", KIB)) if value and value % factor == 0), "")
    return f"{value // _SIZE_SUFFIXES[suffix]}{suffix}"


class Unit:
    """What the values of an option are: as a Python value, and as text in a variable or on the command line."""

    __slots__ = ("check", "choices", "maximum", "metavar", "parse", "show", "takes", "text_form", "types")

    def __init__(
        self,
        types: tuple[Any, ...],
        takes: str,  # what a keyword takes, for messages
        text_form: str,  # what a variable or flag takes, for messages
        metavar: str,
        parse: Callable[[str], Value],  # raises ValueError; its text is not used
        show: Callable[[Any], str],  # the text form of a value
        maximum: float = float("inf"),
        check: Callable[[Any, str], None] = lambda value, label: None,  # of the right type; raises, naming the label
        choices: tuple[str, ...] = (),
    ) -> None:
        self.types, self.takes, self.text_form, self.metavar = types, takes, text_form, metavar
        self.parse, self.show, self.maximum = parse, show, maximum
        self.check, self.choices = check, choices


# A field value that needs no escaping and cannot smuggle in a second header (RFC 9110 section 5.5).
_FIELD_VALUE = r"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?"


def _check_field_value(value: str | None, label: str) -> None:
    import re

    if value is not None and not re.fullmatch(_FIELD_VALUE, value):
        raise ValueError(f"{label} must be Latin-1 text on one line, with no space around it, got {value!r}")


def _check_path(value: str | None, label: str) -> None:
    if value is not None and (not value or "\0" in value):
        raise ValueError(f"{label} must be a path, got {value!r}")


def _check_log(value: str | None, label: str) -> None:
    if value is not None and (not value or "\0" in value):
        raise ValueError(f"{label} must be a path, or - for standard output, got {value!r}")


def _check_log_format(value: str, label: str) -> None:
    from ._bjoern import check_access_log_format

    try:
        check_access_log_format(value)
    except ValueError as error:
        raise ValueError(f"{label} must be a format of lines, got {value!r}: {error}") from None


def _check_name(value: str | None, label: str) -> None:
    if value is not None and not value.strip():
        raise ValueError(f"{label} must be a name or a number, got {value!r}")


def _check_paths(values: Sequence[Any], label: str) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{label} must be a list of paths, got {value!r} in it")
        _check_path(value, label)


def _check_addresses(values: Sequence[Any], label: str) -> None:
    from . import addresses

    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{label} must be a list of addresses, got {value!r} in it")
        try:
            addresses.parse(value)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None


def _check_requests(value: int | str, label: str) -> None:
    try:
        if max(around(value)) <= COUNT.maximum:
            return
    except ValueError:
        pass
    raise ValueError(f"{label} must be {_REQUESTS_FORM}, got {value!r}")


def _check_mask(value: int | None, label: str) -> None:
    if value is not None and not 0 <= value <= 0o777:
        raise ValueError(f"{label} must be from 0 to 777, octal, got {value:o}")


def _choice(*choices: str) -> Unit:
    """One of several words."""
    form = ", ".join(choices[:-1]) + f" or {choices[-1]}"

    def check(value: str, label: str) -> None:
        if value in choices:
            return
        from difflib import get_close_matches

        near = get_close_matches(value.lower(), choices, n=1)
        raise ValueError(f"{label} must be {form}, got {value!r}" + (f"; did you mean {near[0]!r}?" if near else ""))

    return Unit((str,), "a str", form, "NAME", str, str, check=check, choices=choices)


def _check_peers(value: str, label: str) -> None:
    """Raises ValueError, naming the part, where one is not what the engine reads: proxies/trusted.rs."""
    if not value:
        return
    import re
    from ipaddress import ip_network

    for part in re.split(r"[, \t]+", value):
        if part in ("", "*", "unix"):
            continue
        _, slash, bits = part.partition("/")
        try:
            # Neither a scope (fe80::1%eth0) nor a mask (10.0.0.0/255.0.0.0), which ipaddress takes, too.
            if "%" in part or (slash and not (bits.isascii() and bits.isdigit())):
                raise ValueError(f"{part!r} is neither ADDRESS nor ADDRESS/BITS")
            ip_network(part)
        except ValueError as error:
            said = str(error)
            hint = f"; do you mean {ip_network(part, strict=False)}?" if said.endswith("has host bits set") else ""
            what = "addresses, networks such as 10.0.0.0/8, 'unix' and '*'"
            raise ValueError(f"{label} must be a list of {what}: {said}{hint}, got {value!r}") from None


def _check_root(value: str, label: str) -> None:
    """Raises ValueError where a path could never be the start of a request's, or not of one at a segment's end."""
    if not value:
        return
    segments = value.split("/")
    fault = None
    if segments[0] or len(segments) == 1:
        fault = "it does not begin with '/'"
    elif not segments[-1]:
        fault = "it ends with '/'"
    elif {"", ".", ".."} & set(segments[1:]):
        fault = "it has an empty segment, '.' or '..' in it"
    elif bad := next((char for char in value if char in "?#%\\" or not char.isprintable()), None):
        fault = f"{bad!r} is in it" + ("; write what it stands for" if bad == "%" else "")
    if fault:
        raise ValueError(f"{label} must be a path such as /shop: {fault}, got {value!r}")


_REQUESTS_FORM = "a number of requests such as 1000, or 1000~50 for up to 50 more"
_SIZE_FORM = "a size such as 65536, 64K, 1M or 1G"
_DURATION_FORM = "a duration such as 30, 0.5, 500ms, 30s or 5m"
_SWITCH_FORM = "1 or 0 (or true/false, yes/no, on/off)"
_YEAR = 366 * 24 * 3600

BYTES = Unit((int,), "an int, in bytes", _SIZE_FORM, "SIZE", _parse_size, _show_size, 1 << 62)
SECONDS = Unit((int, float), "a number of seconds", _DURATION_FORM, "TIME", _parse_duration, "{:.9g}s".format, _YEAR)
COUNT = Unit((int,), "an int", "a whole number", "N", _parse_count, str, (1 << 31) - 1)
# With a GIL, more than some hundreds only cost; of a number that nobody means, the system would refuse a part.
THREADS = Unit((int,), "an int", "a whole number", "N", _parse_count, str, 4096)
SWITCH = Unit((bool,), "True or False", _SWITCH_FORM, "", _parse_switch, lambda on: "on" if on else "off")
_OR_NONE = (str, type(None))


def _or_none(text: str | None) -> str:
    return text or "none"


def _none_is_none(text: str) -> str | None:
    return None if text == "none" else text


def _none_is_empty(text: str) -> str:
    return "" if text == "none" else text


TEXT = Unit(_OR_NONE, "a str or None", "text", "TEXT", _none_is_none, _or_none, check=_check_field_value)
PATH = Unit(_OR_NONE, "a str or None", "a path", "PATH", _none_is_none, _or_none, check=_check_path)
LOG = Unit(_OR_NONE, "a str or None", "a path, or -", "FILE", _none_is_none, _or_none, check=_check_log)
NAME = Unit(_OR_NONE, "a str or None", "a name or a number", "NAME", _none_is_none, _or_none, check=_check_name)
PEERS = Unit((str,), "a str", "a list", "LIST", _none_is_empty, _or_none, check=_check_peers)
ROOT = Unit((str,), "a str", "a path", "PATH", _none_is_empty, _or_none, check=_check_root)
ADDRESSES = Unit(
    (tuple, list),
    "a list of addresses",
    "addresses",
    "ADDR",
    _parse_list,
    lambda texts: ", ".join(texts) or "127.0.0.1:8000, or 0.0.0.0:$PORT where PORT is set",
    check=_check_addresses,
)
PATHS = Unit(
    (tuple, list),
    "a list of paths",
    "paths",
    "PATH",
    _parse_list,
    lambda paths: ", ".join(paths) or "none",
    check=_check_paths,
)
FORMAT = Unit((str,), "a str", "a format of lines", "FORMAT", str, str, check=_check_log_format)
REQUESTS = Unit((int, str), "an int or a str", _REQUESTS_FORM, "N[~J]", _parse_requests, str, check=_check_requests)
MASK = Unit(
    (int, type(None)),
    "an int or None",
    "an octal number such as 027",
    "MASK",
    _parse_mask,
    lambda mask: "unchanged" if mask is None else f"{mask:03o}",
    check=_check_mask,
)
LEVEL = _choice("debug", "info", "warning", "error")
LOG_FORMAT = _choice("plain", "json")


class Option:
    """One option, and what is known about it."""

    __slots__ = ("default", "group", "help", "minimum", "name", "scope", "short", "unit", "variable")
    name: str

    def __init__(
        self,
        default: Value,
        unit: Unit,
        group: str,
        help: str,
        minimum: float,  # in the unit
        scope: str,  # who takes it, see SCOPES
        short: str,  # the flag of one letter, "" for none: as gunicorn's
        variable: str,  # a variable that other servers have for it, too
    ) -> None:
        self.default, self.unit, self.group, self.help, self.minimum = default, unit, group, help, minimum
        self.scope, self.short, self.variable = scope, short, variable

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def as_field(self) -> Any:
        """As a dataclass declares it, with what is known as metadata."""
        import dataclasses

        known = {key: getattr(self, key) for key in self.__slots__ if key not in ("name", "default")}
        return dataclasses.field(default=self.default, metadata=known)


HANDOVER = "BJOERN_HANDOVER"  # no option: by this variable a supervisor's fresh interpreter knows what it is for

# By what takes options: the scopes of those it takes. What makes and minds processes is no business of a `Server`.
SCOPES = {
    "server": ("server",),
    "run": ("server", "run"),
    "command": ("server", "run", "command"),
}


def _option(
    default: Value,
    unit: Unit,
    group: str,
    help: str,
    minimum: float = 0,
    *,
    scope: str = "server",
    short: str = "",
    variable: str = "",
) -> Any:
    return Option(default, unit, group, help, minimum, scope, short, variable)


@dataclass(frozen=True)
class Options(Deferred):
    """Limits, timeouts and manners of one server, and of the processes around it; sizes in bytes, times in seconds.

    Each field is a variable (`BJOERN_KEEP_ALIVE=5`) and a flag of the command (`--keep-alive 5`). What is about one
    server is a keyword of `bjoern.run`, `listen`, `server_run` and `Server` (`keep_alive=5`), what is about processes
    one of `bjoern.run`.
    Raises TypeError or ValueError, naming the option, where a value is of the wrong type or out of range.
    """

    max_head: int = _option(64 * KIB, BYTES, "limits", "longest request line and fields together; more: 431", 256)
    max_fields: int = _option(100, COUNT, "limits", "most header fields in a request; more: 431", 1)
    max_body: int = _option(GIB, BYTES, "limits", "largest request body, 0 = no limit; more: 413")
    body_buffer: int = _option(
        MIB, BYTES, "limits", "longest body kept in memory; a longer one goes to a temporary file"
    )
    max_body_memory: int = _option(
        64 * MIB, BYTES, "limits", "most bytes of bodies in memory, of all connections together; more go to files"
    )
    max_body_disk: int = _option(
        16 * GIB, BYTES, "limits", "most bytes of bodies in files, of all connections together, 0 = no limit; more: 503"
    )
    max_connections: int = _option(
        0, COUNT, "limits", "most open connections, 0 = what open files allow; more: one idle is closed, or they wait"
    )
    header_timeout: float = _option(30.0, SECONDS, "timeouts", "for a whole request head; then 408", 0.001)
    body_timeout: float = _option(60.0, SECONDS, "timeouts", "without a byte of the body; then 408", 0.001)
    write_timeout: float = _option(60.0, SECONDS, "timeouts", "without the client taking a byte; then close", 0.001)
    min_body_rate: int = _option(
        240, BYTES, "timeouts", "bytes of a body a second, over each body_timeout, 0 = any; fewer: 408"
    )
    min_send_rate: int = _option(
        240, BYTES, "timeouts", "bytes a client must take a second, over each write_timeout, 0 = any; fewer: cut"
    )
    keep_alive: float = _option(75.0, SECONDS, "timeouts", "an idle connection stays open, 0 = one request each")
    graceful_timeout: float = _option(30.0, SECONDS, "timeouts", "for open requests to finish when stopping")
    threads: int = _option(1, THREADS, "concurrency", "threads that run the application", 1)
    timeout: float = _option(
        0.0,
        SECONDS,
        "concurrency",
        "for one call of the application, 0 = no limit; then 503, and RequestTimeout in it",
        short="-t",
    )
    slow_request: float = _option(
        0.0, SECONDS, "concurrency", "a call that takes longer is logged once, with its Python stack; 0 = none is"
    )
    max_queue: int = _option(
        0, COUNT, "concurrency", "most requests that wait while all threads are busy, 0 = no limit; more: 503"
    )
    max_parked: int = _option(
        500,
        COUNT,
        "concurrency",
        "most streams that wait for slow clients, each in a thread of its own; more: the one idle for longest is cut",
        1,
    )
    require_host: bool = _option(True, SWITCH, "protocol", "refuse HTTP/1.1 requests without Host (400, RFC 9112 3.2)")
    date_header: bool = _option(True, SWITCH, "protocol", "send Date (RFC 9110 6.6.1)")
    server_header: str | None = _option(None, TEXT, "protocol", "send this Server header")
    forwarded_allow_ips: str = _option(
        "",
        PEERS,
        "behind a proxy",
        "proxies whose Forwarded or X-Forwarded-* count: addresses, networks, unix, * = any peer",
        variable="FORWARDED_ALLOW_IPS",
    )
    proxy_protocol: bool = _option(
        False,
        SWITCH,
        "behind a proxy",
        "each connection begins with a PROXY protocol header, version 1 or 2; else it is closed",
    )
    root_path: str = _option(
        "", ROOT, "behind a proxy", "where the application is mounted: SCRIPT_NAME, taken off PATH_INFO"
    )

    bind: tuple[str, ...] = _option(
        (),
        ADDRESSES,
        "where to listen",
        "HOST:PORT, [IPV6]:PORT, unix:/PATH, unix:@NAME or fd://N; may be given again",
        scope="command",
        short="-b",
    )
    backlog: int = _option(
        1024, COUNT, "where to listen", "connections the system queues for the server", scope="command"
    )
    reuse_port: bool = _option(
        False, SWITCH, "where to listen", "let other processes bind the same port", scope="command"
    )

    workers: int = _option(
        0,
        COUNT,
        "processes",
        "worker processes, watched and replaced; 0 = none, this process serves",
        scope="run",
        short="-w",
        variable="WEB_CONCURRENCY",
    )
    preload: bool = _option(
        True, SWITCH, "processes", "import the application once, then fork the workers", scope="command"
    )
    max_requests: int | str = _option(
        0,
        REQUESTS,
        "processes",
        "a worker is replaced after so many requests and up to ~J more (a tenth), 0 = never",
    )
    max_rss: int = _option(
        0, BYTES, "processes", "a worker with more memory than this is replaced, 0 = never", scope="run"
    )
    worker_timeout: float = _option(
        0.0,
        SECONDS,
        "processes",
        "a worker whose threads all hang in the application for so long is killed, 0 = never",
        scope="run",
    )
    reload: bool = _option(
        False, SWITCH, "processes", "for development: restart when an imported file changes", scope="run"
    )
    reload_include: tuple[str, ...] = _option(
        (), PATHS, "processes", "watch this file or folder, too; may be given again", scope="run"
    )
    pid: str | None = _option(None, PATH, "processes", "write the process id to this file", scope="run", short="-p")
    user: str | None = _option(None, NAME, "processes", "serve as this user, once listening", scope="run", short="-u")
    group: str | None = _option(
        None, NAME, "processes", "serve as this group (the user's own where there is a user)", scope="run", short="-g"
    )
    umask: int | None = _option(
        None, MASK, "processes", "mask for the modes of new files, the socket's among them", scope="run", short="-m"
    )
    chdir: str | None = _option(None, PATH, "processes", "change to this directory first", scope="command")
    pythonpath: tuple[str, ...] = _option(
        (), PATHS, "processes", "search this folder for modules, too; may be given again", scope="command"
    )

    access_log: str | None = _option(
        None, LOG, "logs", "a line for each request goes to this file; - or no name = standard output"
    )
    access_log_format: str = _option(
        "combined", FORMAT, "logs", "common, combined, json, or atoms of gunicorn's such as %(h)s"
    )
    log_level: str = _option(
        "info", LEVEL, "logs", "the least level of the server's messages: debug, info, warning or error", scope="run"
    )
    log_format: str = _option(
        "plain", LOG_FORMAT, "logs", "how they are written: plain, or json for a JSON object a line", scope="run"
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.name, check(option, getattr(self, option.name), option.name))

    @classmethod
    def resolve(
        cls,
        caller: str,
        keywords: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
        scope: str = "server",
    ) -> Options:
        """The options of a call: keyword, else variable, else default. An empty variable counts as unset.

        What is not in the scope of the caller has its default.
        Raises TypeError for a keyword that is no option, in the words of a call of `caller`;
        ValueError naming the variable where one is malformed; else as `Options`.
        """
        check_names(caller, keywords, scope)
        options = cls.__new__(cls)  # `cls()` would have it made a dataclass, which serving does not need
        for option in OPTIONS:
            value = option.default
            if option.name in keywords:
                value = check(option, keywords[option.name], option.name)
            elif option.scope in SCOPES[scope]:
                for name in variables(option, scope):
                    if text := environ.get(name, "").strip():
                        value = parse(option, text, name)
                        break
            vars(options)[option.name] = value
        return options

    @property
    def watched(self) -> int:
        """How many worker processes a supervisor is to watch, 0 where none of the options needs one."""
        needed = (self.max_requests or self.max_rss or self.worker_timeout or self.reload or self.reload_include) or (
            self.pid or self.user or self.group
        )
        return max(self.workers, 1) if needed else self.workers

    def server_keywords(self) -> dict[str, Any]:
        """The options that are keywords of `Server`."""
        return {option.name: getattr(self, option.name) for option in OPTIONS if option.scope == "server"}


OPTIONS: tuple[Option, ...] = tuple(Options.declared.values())


def variables(option: Option, scope: str) -> list[str]:
    """The environment variables of an option, the one that goes first at the front."""
    own = variable(option)
    # A program that knows nothing of workers must not have any because its platform sets WEB_CONCURRENCY.
    return [own, option.variable] if option.variable and (scope == "command" or option.scope == "server") else [own]


def variable(option: Option) -> str:
    """The environment variable of an option."""
    return f"BJOERN_{option.name.upper()}"


def flag(option: Option) -> str:
    """The command line flag of an option."""
    return "--" + option.name.replace("_", "-")


def check_names(caller: str, names: Iterable[str], scope: str = "server") -> None:
    """Raises TypeError, as Python does for a call of `caller`, at the first name that is no option of the scope."""
    options = {option.name: option for option in OPTIONS}
    for name in names:
        if name in options and options[name].scope in SCOPES[scope]:
            continue
        hint = f"; {_TAKERS[options[name].scope]} can have it" if name in options else ""
        if not hint:
            from difflib import get_close_matches  # only ever needed on the way out

            own = [one.name for one in OPTIONS if one.scope in SCOPES[scope]]
            near = get_close_matches(name, own, n=1) or get_close_matches(name, list(options), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
        raise TypeError(f"{caller}() got an unexpected keyword argument '{name}'{hint}")


def misspelt(environ: Mapping[str, str], scope: str) -> Iterator[str]:
    """What is to be said of each variable that is none, and looks like one of the scope."""
    known = {variable(option): variable(option) for option in OPTIONS if option.scope in SCOPES[scope]}
    if scope == "command":  # flags without a variable of their own
        known |= {"BJOERN_HOST": "BJOERN_BIND", "BJOERN_PORT": "PORT or BJOERN_BIND"}
    for name in sorted(environ):
        if not name.startswith("BJOERN_") or name == HANDOVER or known.get(name) == name:
            continue
        from difflib import get_close_matches

        if near := get_close_matches(name, known, n=1, cutoff=0.8):
            yield f"{name} is not an option's variable; did you mean {known[near[0]]}?"


_TAKERS = {"run": "bjoern.run(app, ...) and the command", "command": "only the command"}


def check(option: Option, value: Any, label: str) -> Value:
    """The value, fit for the option. `label` names it in the TypeError or ValueError raised otherwise."""
    unit = option.unit
    # bool is an int to isinstance, but keep_alive=True is a mistake.
    if not isinstance(value, unit.types) or (isinstance(value, bool) and unit is not SWITCH):
        raise TypeError(f"{label} must be {unit.takes}, got {value!r}")
    if bound := _missed(option, value):
        raise ValueError(f"{label} must be {bound}, got {value!r}")
    unit.check(value, label)
    if unit in (ADDRESSES, PATHS):
        return tuple(value)
    return float(value) if unit is SECONDS else value


def parse(option: Option, text: str, label: str) -> Value:
    """The value that a variable's or flag's text stands for. Raises ValueError naming `label`."""
    unit = option.unit
    try:
        value = unit.parse(text)
    except ValueError:
        raise ValueError(f"{label} must be {unit.text_form}, got {text!r}") from None
    if bound := _missed(option, value):
        raise ValueError(f"{label} must be {bound}, got {text!r}")
    return check(option, value, label)


def _missed(option: Option, value: Any) -> str:
    """The bound that a number does not keep, in words; "" where it keeps both. NaN keeps none."""
    unit = option.unit
    if unit not in (BYTES, SECONDS, COUNT, THREADS) or option.minimum <= value <= unit.maximum:
        return ""
    return f"at most {unit.show(unit.maximum)}" if value > unit.maximum else f"at least {unit.show(option.minimum)}"


def table() -> str:
    """The options as a Markdown table, for the documentation."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in OPTIONS:
        rows.append(f"| `{option.name}` | {option.unit.show(option.default)} | {option.help} |")
    return "\n".join(rows) + "\n"
