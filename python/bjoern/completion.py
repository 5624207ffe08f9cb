"""Completion of the command's arguments in a shell, written from the list of flags.

Knows: the flags, what they take, and how bash, zsh and fish are told.
Must not know: what the flags mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from . import options
from .cli import Parser, parser

_FILES = (options.PATH, options.PATHS, options.LOG)


def script(shell: str) -> str:
    """What a shell has to read to complete the command."""
    return _SCRIPTS[shell](parser())


class _Flag:
    """A flag in all its spellings, and what comes behind it."""

    def __init__(self, action: argparse.Action) -> None:
        self.names = action.option_strings
        option = next((one for one in options.OPTIONS if one.name == action.dest), None)
        unit = option.unit if option else None
        self.choices: tuple[str, ...] = tuple(action.choices or ()) or (unit.choices if unit else ())
        self.takes_file = unit in _FILES and action.nargs != 0
        self.takes_value = action.nargs != 0
        self.help = (option.help if option else action.help) or ""


def _flags(parser: Parser) -> Iterator[_Flag]:
    return (_Flag(action) for action in parser._actions if action.option_strings)


def _bash(parser: Parser) -> str:
    flags = list(_flags(parser))
    every = " ".join(name for flag in flags for name in flag.names)
    cases = ""
    for flag in flags:
        pattern = "|".join(flag.names)
        if flag.choices:
            cases += (
                f"""        {pattern}) COMPREPLY=($(compgen -W "{" ".join(flag.choices)}" -- "$word")); return ;;\n"""
            )
        elif flag.takes_file:
            cases += f"""        {pattern}) compopt -o default; return ;;\n"""
        elif flag.takes_value:
            cases += f"""        {pattern}) return ;;\n"""
    return f"""\
# bash completion of bjoern: source <(bjoern --completion bash)
_bjoern() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    [[ $word == = ]] && word=""
    [[ $before == = ]] && before="${{COMP_WORDS[COMP_CWORD-2]}}"
    COMPREPLY=()
    case "$before" in
{cases}    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "{every}" -- "$word"))
    else
        local file
        for file in "$word"*.py; do
            [[ -f $file ]] && COMPREPLY+=("${{file%.py}}")
        done
    fi
}}
complete -F _bjoern bjoern
"""


def _zsh(parser: Parser) -> str:
    lines = []
    for flag in _flags(parser):
        help = flag.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
        help = help.replace("'", "'\\''")
        if flag.choices:
            value = f":value:({' '.join(flag.choices)})"
        elif flag.takes_file:
            value = ":file:_files"
        else:
            value = ":value:" if flag.takes_value else ""
        # "=": a value may also follow an equals sign.
        lines += [
            f"        '*{name}{'=' if value and name[1] == '-' else ''}[{help}]{value}' \\" for name in flag.names
        ]
    return "\n".join(
        [
            "#compdef bjoern",
            "# zsh completion of bjoern: source <(bjoern --completion zsh)",
            "_bjoern() {",
            "    local -a modules",
            "    modules=(*.py(N:r))",
            "    _arguments \\",
            *lines,
            '        "1:module:($modules)"',
            "}",
            'if [ "$funcstack[1]" = _bjoern ]; then _bjoern "$@"; else compdef _bjoern bjoern; fi',
            "",
        ]
    )


def _fish(parser: Parser) -> str:
    lines = [
        "# fish completion of bjoern: bjoern --completion fish | source",
        "function __bjoern_modules",
        "    set -l files *.py",
        "    string replace -r '\\.py$' '' -- $files",
        "end",
        "complete -c bjoern -f -a '(__bjoern_modules)'",
    ]
    for flag in _flags(parser):
        help = flag.help.replace("\\", "\\\\").replace("'", "\\'")
        for name in flag.names:
            spelt = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            value = ""
            if flag.choices:
                value = f" -x -a '{' '.join(flag.choices)}'"
            elif flag.takes_file:
                value = " -r -F"
            elif flag.takes_value:
                value = " -x"
            lines.append(f"complete -c bjoern {spelt}{value} -d '{help}'")
    return "\n".join([*lines, ""])


_SCRIPTS: dict[str, Callable[[Parser], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
