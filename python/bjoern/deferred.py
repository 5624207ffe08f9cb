"""A frozen dataclass that is made one when somebody looks.

Knows: `dataclasses`, which takes several times as long to import as all of bjoern: it needs inspect, ast, re.
Must not know: what the fields mean.
Invariant: no use of such a class tells whether it is a dataclass already.
"""

from __future__ import annotations

import _thread  # threading is made of it, and costs more

TYPE_CHECKING = False  # what typing has is for type checkers, who know the name without importing it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass as dataclass
    from typing import Any
else:

    def dataclass(*, frozen: bool) -> Callable[[type[Deferred]], type[Deferred]]:
        """As `dataclasses.dataclass`, for a class derived from `Deferred`; it is made later."""
        assert frozen

        def declare(cls: type[Deferred]) -> type[Deferred]:
            cls.declared = {name: vars(cls)[name] for name in cls.__annotations__}
            for name, declared in cls.declared.items():
                setattr(cls, name, declared.default)
            return cls

        return declare


_making = _thread.RLock()


def _make(cls: type[Deferred]) -> None:
    with _making:
        if "__init__" in vars(cls):
            return
        import dataclasses

        for name, declared in cls.declared.items():
            setattr(cls, name, declared.as_field())
        dataclasses.dataclass(frozen=True)(cls)


class _Asked:
    """What a dataclass has and `Deferred` has not: to ask for it is to make the dataclass."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        derived = owner.__mro__[: owner.__mro__.index(Deferred)]
        if derived:  # else it is dataclasses that asks, of the base
            _make(derived[-1])
            # Looked up in that class alone: it may be a method of a derived class that asks, with super().
            found = vars(derived[-1]).get(self._name)
            if found is not None:
                return found.__get__(instance, owner) if hasattr(found, "__get__") else found
        raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")


class Deferred:
    """The base of a class that becomes a frozen dataclass, in place, when it is first used as one.

    That is when it is called, asked for its fields or signature, or an instance of it compared, shown or assigned to.
    Its body declares fields by objects that have the `default`, and `as_field()`, which gives a `dataclasses.Field`.
    """

    declared: Mapping[str, Any] = {}

    if not TYPE_CHECKING:
        __init__ = _Asked()
        __repr__ = _Asked()
        __eq__ = _Asked()
        __hash__ = _Asked()
        __setattr__ = _Asked()
        __delattr__ = _Asked()
        __replace__ = _Asked()  # CPython 3.13
        __match_args__ = _Asked()
        __dataclass_fields__ = _Asked()
        __dataclass_params__ = _Asked()
        __signature__ = _Asked()  # no dataclass has it, but `inspect.signature` asks for it before it looks at __init__
