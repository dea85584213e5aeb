"""Many byte strings looked for at once, in a few nanoseconds a byte of content, however many they are."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_SLOT_BITS = 20
_ODD = np.uint32(0x9E3779B1)
"""Multiplies what is hashed, so that the upper bits depend on all (Knuth's multiplicative hashing)."""
STEP = 1 << 18
"""Bytes of content at a time: with more, the table would be full."""
_HEAD = 64
"""Of a string that is longer, its first runs are looked at."""


class Needles:
    """Many byte strings, each with a name, looked for at once.

    A string can only be where all of its runs of four bytes are. So content is read once into a table of the runs it
    has, a piece at a time, and only what passes for one that may be there is looked for: some nanoseconds a byte,
    however many strings.

    Args:
        named: strings of at least four bytes.
    """

    def __init__(self, named: Iterable[tuple[bytes, tuple[str, str]]]) -> None:
        names: dict[bytes, set[tuple[str, str]]] = {}
        for needle, name in named:
            names.setdefault(needle, set()).add(name)
        self._all, self._names = list(names), list(names.values())
        self.longest = max(map(len, self._all), default=0)
        runs = [_runs(needle[:_HEAD]) for needle in self._all]
        self._runs = np.concatenate(runs) if runs else np.zeros(0, np.uint32)
        self._starts = np.cumsum([0, *map(len, runs)])[:-1]
        self._there = np.zeros(1 << _SLOT_BITS, np.bool_)

    def within(self, content: bytes) -> set[tuple[str, str]]:
        """The names of those that are in some content."""
        found: set[tuple[str, str]] = set()
        if not self._all:
            return found
        sought = np.ones(len(self._all), np.bool_)
        for start, stop in pairwise([*range(0, len(content), STEP), len(content)]):
            runs = _runs(content[start : stop + _HEAD])
            self._there[runs] = True
            maybe = np.logical_and.reduceat(self._there[self._runs], self._starts) & sought
            self._there[runs] = False
            for place in np.flatnonzero(maybe):
                needle = self._all[place]
                if content.find(needle, start, stop + len(needle)) >= 0:
                    found |= self._names[place]
                    sought[place] = False
        return found


def _runs(content: bytes) -> NDArray[np.uint32]:
    """The slots of all runs of four bytes, in no order."""
    views = [np.frombuffer(content, "<u4", count, at) for at in range(4) if (count := (len(content) - at) // 4) > 0]
    runs = np.concatenate(views) if views else np.zeros(0, np.uint32)
    return (runs * _ODD) >> np.uint32(32 - _SLOT_BITS)
