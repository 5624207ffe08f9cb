"""The options of the server: the one list from which keywords, variables, flags and the documentation derive.

Knows: each option's name, default, unit, limits and help text, and how its text form is read.
Must not know: sockets, signals, the command line's other flags, the engine but for its word on a log's format.
Invariant: an `Options` that exists is valid. Adding an option is adding one field to it.
"""

from __future__ import annotations

import os

from .deferred import Deferred, dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

Value = bool | int | float | str | None

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


def _show_size(value: Any) -> str:
    suffix = next((s for s, factor in (("G", GIB), ("M", MIB), ("K", KIB)) if value and value % factor == 0), "")
    return f"{value // _SIZE_SUFFIXES[suffix]}{suffix}"


class Unit:
    """What the values of an option are: as a Python value, and as text in a variable or on the command line."""

    __slots__ = ("check", "maximum", "metavar", "parse", "show", "takes", "text_form", "types")

    def __init__(
        self,
        types: tuple[Any, ...],
        takes: str,  # what a keyword takes, for messages
        text_form: str,  # what a variable or flag takes, for messages
        metavar: str,
        parse: Callable[[str], Value],  # raises ValueError; its text is not used
        show: Callable[[Any], str],  # the text form of a value
        maximum: float = float("inf"),
        check: Callable[[Any, str], None] = lambda value, label: None,  # of the right type; raises ValueError
    ) -> None:
        self.types, self.takes, self.text_form, self.metavar = types, takes, text_form, metavar
        self.parse, self.show, self.maximum, self.check = parse, show, maximum, check


_SIZE_FORM = "a size such as 65536, 64K, 1M or 1G"
_DURATION_FORM = "a duration such as 30, 0.5, 500ms, 30s or 5m"
_SWITCH_FORM = "1 or 0 (or true/false, yes/no, on/off)"
_YEAR = 366 * 24 * 3600

BYTES = Unit((int,), "an int, in bytes,", _SIZE_FORM, "SIZE", _parse_size, _show_size, 1 << 62)
SECONDS = Unit((int, float), "a number of seconds", _DURATION_FORM, "TIME", _parse_duration, "{:g}s".format, _YEAR)
COUNT = Unit((int,), "an int", "a whole number", "N", _parse_count, str, (1 << 31) - 1)
SWITCH = Unit((bool,), "True or False", _SWITCH_FORM, "", _parse_switch, lambda on: "on" if on else "off")


# A field value that needs no escaping and cannot smuggle in a second header (RFC 9110 section 5.5).
_FIELD_VALUE = r"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?"


def _check_field_value(value: str | None, label: str) -> None:
    import re

    if value is not None and not re.fullmatch(_FIELD_VALUE, value):
        raise ValueError(f"{label} must be Latin-1 text on one line, with no space around it, got {value!r}")


def _check_path(value: str | None, label: str) -> None:
    if value is not None and (not value or "\0" in value):
        raise ValueError(f"{label} must be a path, or - for standard output, got {value!r}")


def _check_log_format(value: str, label: str) -> None:
    from ._bjoern import check_access_log_format

    try:
        check_access_log_format(value)
    except ValueError as error:
        raise ValueError(f"{label} must be a format of lines, got {value!r}: {error}") from None


TEXT = Unit(
    (str, type(None)), "a str or None", "text", "TEXT", str, lambda text: text or "none", check=_check_field_value
)
LOG = Unit(
    (str, type(None)), "a str or None", "a path, or -", "FILE", str, lambda path: path or "none", check=_check_path
)
FORMAT = Unit((str,), "a str", "a format of lines", "FORMAT", str, str, check=_check_log_format)


class Option:
    """One option, and what is known about it; `minimum` is in the unit."""

    __slots__ = ("default", "group", "help", "minimum", "name", "unit")
    name: str

    def __init__(self, default: Value, unit: Unit, group: str, help: str, minimum: float) -> None:
        self.default, self.unit, self.group, self.help, self.minimum = default, unit, group, help, minimum

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def as_field(self) -> Any:
        """As a dataclass declares it, with what is known as metadata."""
        import dataclasses

        known: dict[str, Any] = {"unit": self.unit, "group": self.group, "help": self.help, "minimum": self.minimum}
        return dataclasses.field(default=self.default, metadata=known)


def _option(default: Value, unit: Unit, group: str, help: str, minimum: float = 0) -> Any:
    return Option(default, unit, group, help, minimum)


@dataclass(frozen=True)
class Options(Deferred):
    """Limits, timeouts and manners of one server; sizes in bytes, times in seconds.

    Each field is a keyword of `bjoern.run`, `listen`, `server_run` and `Server` (`keep_alive=5`), a variable
    (`BJOERN_KEEP_ALIVE=5`) and a flag of the command (`--keep-alive 5`).
    Raises TypeError or ValueError, naming the option, where a value is of the wrong type or out of range.
    """

    max_head: int = _option(64 * KIB, BYTES, "limits", "longest request line and fields together; more: 431", 256)
    max_fields: int = _option(100, COUNT, "limits", "most header fields in a request; more: 431", 1)
    max_body: int = _option(GIB, BYTES, "limits", "largest request body, 0 = no limit; more: 413")
    body_buffer: int = _option(
        MIB, BYTES, "limits", "longest body kept in memory; a longer one goes to a temporary file"
    )
    max_connections: int = _option(
        0, COUNT, "limits", "most open connections, 0 = the soft limit of open files less a reserve; others wait"
    )
    header_timeout: float = _option(30.0, SECONDS, "timeouts", "for a whole request head; then 408", 0.001)
    body_timeout: float = _option(60.0, SECONDS, "timeouts", "without a byte of the body; then 408", 0.001)
    write_timeout: float = _option(60.0, SECONDS, "timeouts", "without the client taking a byte; then close", 0.001)
    keep_alive: float = _option(75.0, SECONDS, "timeouts", "an idle connection stays open, 0 = one request each")
    graceful_timeout: float = _option(30.0, SECONDS, "timeouts", "for open requests to finish when stopping")
    threads: int = _option(1, COUNT, "concurrency", "threads that run the application", 1)
    timeout: float = _option(
        0.0, SECONDS, "concurrency", "for one call of the application, 0 = no limit; then 503, and RequestTimeout in it"
    )
    slow_request: float = _option(
        0.0, SECONDS, "concurrency", "a call that takes longer is logged once, with its Python stack; 0 = none is"
    )
    max_queue: int = _option(
        0, COUNT, "concurrency", "most requests that wait while all threads are busy, 0 = no limit; more: 503"
    )
    max_requests: int = _option(
        0, COUNT, "concurrency", "requests after which the server ends by itself, those at hand finished; 0 = never"
    )
    access_log: str | None = _option(None, LOG, "logs", "a line for each request goes to this file; - = stdout")
    access_log_format: str = _option(
        "combined", FORMAT, "logs", "common, combined, json, or atoms of gunicorn's such as %(h)s"
    )
    require_host: bool = _option(True, SWITCH, "protocol", "refuse HTTP/1.1 requests without Host (400, RFC 9112 3.2)")
    date_header: bool = _option(True, SWITCH, "protocol", "send Date (RFC 9110 6.6.1)")
    server_header: str | None = _option(None, TEXT, "protocol", "send this Server header")

    def __post_init__(self) -> None:
        for option in OPTIONS:
            object.__setattr__(self, option.name, check(option, getattr(self, option.name), option.name))

    @classmethod
    def resolve(cls, caller: str, keywords: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Options:
        """The options of a call: keyword, else variable, else default. An empty variable counts as unset.

        Raises TypeError for a keyword that is no option, in the words of a call of `caller`;
        ValueError naming the variable where one is malformed; else as `Options`.
        """
        check_names(caller, keywords)
        options = cls.__new__(cls)  # `cls()` would have it made a dataclass, which serving does not need
        for option in OPTIONS:
            text = environ.get(variable(option), "").strip()
            if option.name in keywords:
                value = check(option, keywords[option.name], option.name)
            else:
                value = parse(option, text, variable(option)) if text else option.default
            vars(options)[option.name] = value
        return options


OPTIONS: tuple[Option, ...] = tuple(Options.declared.values())


def variable(option: Option) -> str:
    """The environment variable of an option."""
    return f"BJOERN_{option.name.upper()}"


def flag(option: Option) -> str:
    """The command line flag of an option."""
    return "--" + option.name.replace("_", "-")


def check_names(caller: str, names: Iterable[str]) -> None:
    """Raises TypeError, as Python does for a call of `caller`, at the first name that is no option."""
    options = [option.name for option in OPTIONS]
    for name in names:
        if name not in options:
            from difflib import get_close_matches  # only ever needed on the way out

            near = get_close_matches(name, options, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise TypeError(f"{caller}() got an unexpected keyword argument '{name}'{hint}")


def check(option: Option, value: Any, label: str) -> Value:
    """The value, fit for the option. `label` names it in the TypeError or ValueError raised otherwise."""
    unit, minimum = option.unit, option.minimum
    # bool is an int to isinstance, but keep_alive=True is a mistake.
    if not isinstance(value, unit.types) or (isinstance(value, bool) and unit is not SWITCH):
        raise TypeError(f"{label} must be {unit.takes}, got {value!r}")
    if unit in (BYTES, SECONDS, COUNT) and not minimum <= value <= unit.maximum:  # NaN fails this, too
        raise ValueError(f"{label} must be {unit.takes}, from {minimum} to {unit.maximum}, got {value!r}")
    unit.check(value, label)
    return float(value) if unit is SECONDS else value


def parse(option: Option, text: str, label: str) -> Value:
    """The value that a variable's or flag's text stands for. Raises ValueError naming `label`."""
    unit = option.unit
    try:
        value = unit.parse(text)
    except ValueError:
        raise ValueError(f"{label} must be {unit.text_form}, got {text!r}") from None
    return check(option, value, label)


def table() -> str:
    """The options as a Markdown table, for the documentation."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in OPTIONS:
        rows.append(f"| `{option.name}` | {option.unit.show(option.default)} | {option.help} |")
    return "\n".join(rows) + "\n"
