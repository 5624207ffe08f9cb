"""From a text such as "module:app" or "module:make()" to the application it names.

Knows: importing, attributes, what people type by mistake.
Must not know: the command line, sockets, the engine.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

DEFAULT_NAMES = ("application", "app")  # PEP 3333 examples use the first, Flask the second
_MACHINERY = ("<frozen ", __file__, importlib.__file__)  # file names of frames that tell a reader nothing


class LoadError(Exception):
    """The application cannot be had. Its text is cause and way out; `details` the user's part of a traceback, or ""."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def load(target: str) -> Any:
    """The WSGI application that "MODULE", "MODULE:NAME.NAME" or "MODULE:FACTORY(LITERAL, ...)" names.

    The working directory is searched first. Raises LoadError.
    """
    name, _, expression = target.partition(":")
    if os.sep in name or (name.endswith(".py") and os.path.exists(name)):
        path = os.path.relpath(name).removesuffix(".py")
        folder = "" if not path.startswith(os.pardir) else os.path.dirname(path)
        module = path.removeprefix(folder).strip(os.sep).replace(os.sep, ".")
        where = f", in the directory {folder}" if folder else ""
        raise LoadError(f"{name!r} is a file, not a module: use {module}:{expression or 'app'}{where}")
    if os.getcwd() not in sys.path[:1]:
        sys.path.insert(0, os.getcwd())
    module_object = _import(name)
    app = _evaluate(module_object, expression) if expression else _default(module_object)
    _check(app, target)
    return app


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise LoadError(f"{name!r} is not a module name: use MODULE:APP, for instance hello:app")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not any(_users_frames(error.__traceback__)):  # the named module, not one that it imports
            raise LoadError(f"{error} in {os.getcwd()} or on sys.path; check the name, or change directory") from None
        raise _failure(f"importing {name!r}", error) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit as well: a module that ends the process is no application
        raise _failure(f"importing {name!r}", error) from None


def _default(module: ModuleType) -> Any:
    for name in DEFAULT_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    names = " nor ".join(map(repr, DEFAULT_NAMES))
    raise LoadError(f"module {module.__name__!r} has neither {names}; name the application: {module.__name__}:NAME")


def _evaluate(module: ModuleType, expression: str) -> Any:
    """The value of NAME.NAME, or of a call of it with literal arguments."""
    unclear = LoadError(f"{expression!r} is no name and no call with literal arguments: use app or make('x', y=1)")
    try:
        node = ast.parse(expression.strip(), mode="eval").body
        if not isinstance(node, ast.Call):
            return _attribute(module, node)
        factory = _attribute(module, node.func)
        arguments = [ast.literal_eval(argument) for argument in node.args]
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
        if len(keywords) != len(node.keywords):  # **something
            raise unclear
    except (SyntaxError, ValueError, TypeError):
        raise unclear from None
    if not callable(factory):
        name = ast.unparse(node.func)
        raise LoadError(f"{name!r} in {module.__name__!r} cannot be called; leave out the parentheses")
    try:
        return factory(*arguments, **keywords)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failure(f"calling {expression!r} in {module.__name__!r}", error) from None


def _attribute(module: ModuleType, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _get(module, node.id, f"module {module.__name__!r}")
    if isinstance(node, ast.Attribute):
        return _get(_attribute(module, node.value), node.attr, f"'{ast.unparse(node.value)}' in {module.__name__!r}")
    raise ValueError(ast.unparse(node))


def _get(owner: Any, name: str, described: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        from difflib import get_close_matches

        near = get_close_matches(name, [known for known in dir(owner) if not known.startswith("__")])
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "check the name behind the colon"
        raise LoadError(f"{described} has no attribute {name!r}; {hint}") from None


def _check(app: Any, target: str) -> None:
    if not callable(app):
        raise LoadError(f"{target!r} is of type {type(app).__name__} and cannot be called; name a WSGI application")
    try:
        signature = inspect.signature(app, follow_wrapped=False)
    except (TypeError, ValueError):  # not every callable tells
        return
    if not _accepts(signature, 2) and _accepts(signature, 0) and ":" in target:
        raise LoadError(f"{target!r} takes no (environ, start_response); if it makes the application, use '{target}()'")


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _failure(attempt: str, error: BaseException) -> LoadError:
    """A LoadError for what the user's own code raised."""
    report = traceback.TracebackException(type(error), error, error.__traceback__)
    link: traceback.TracebackException | None = report
    while link is not None:
        link.stack = traceback.StackSummary.from_list(f for f in link.stack if not f.filename.startswith(_MACHINERY))
        link = link.__cause__ or link.__context__
    return LoadError(
        f"{attempt} raised {type(error).__name__}: {error}; the traceback above says where", "".join(report.format())
    )


def _users_frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_MACHINERY):
            yield trace
        trace = trace.tb_next
