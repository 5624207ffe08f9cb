"""The scoreboard: a row of numbers for each worker, in memory that all the processes of a service share.

Knows: where the memory is, and what the engine calls the words of a row.
Must not know: who looks, and what follows from it.
Invariant: a row is written by its worker alone, and cleared by the supervisor alone, once that has ended.
"""

from __future__ import annotations

import mmap
import os

from ._bjoern import BOARD_BYTES, board_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# What is so at this moment; the rest are counts, which go on where a worker takes the row of one before it.
_GAUGES = ("alive", "open", "busy", "queued", "out_since")


class Board:
    """The rows, over a descriptor of the memory, which can be inherited by another interpreter."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._words = memoryview(self.memory).cast("Q")
        self._places = {name: place for place, name in enumerate(board_names())}

    @classmethod
    def make(cls, rows: int) -> Board:
        descriptor = os.memfd_create("bjoern-board", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, rows * BOARD_BYTES)
        return cls(descriptor)

    def __len__(self) -> int:
        return len(self.memory) // BOARD_BYTES

    def row(self, index: int) -> Mapping[str, int]:
        """The numbers of a row by name; none where there is no such row."""
        if not 0 <= index < len(self):
            return {}
        first = index * BOARD_BYTES // 8
        return {name: self._words[first + place] for name, place in self._places.items()}

    def clear(self, index: int) -> None:
        """Its worker has ended: nothing is so any more."""
        if 0 <= index < len(self):
            for name in _GAUGES:
                self._words[index * BOARD_BYTES // 8 + self._places[name]] = 0
