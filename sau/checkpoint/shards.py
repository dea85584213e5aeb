"""Weights in several files, each with some of the rows of every tensor, read as if they were in one.

    sparse-00001-of-00002.safetensors   what sparse.safetensors would have of these rows: `W.mask`, `W.values`, the rest
    sau.json                            `rows`: how many rows of each tensor every file has, in order

Each process that shares a model writes its own. A tensor is put together when it is asked for, so digests are those of
one file, and nobody holds more than one of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sau.mask import pack, unpack


class Lazy(Mapping[str, Tensor]):
    """Tensors by name, each made when it is asked for, and not kept."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def joined(
    paths: Sequence[Path], rows: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]
) -> Mapping[str, Tensor]:
    """What one weights file would hold, from several.

    Args:
        paths: the files, in order of their rows.
        rows: by name of a parameter, how many of its rows each file has; what is not named is taken from the first.
        shapes: of the masked matrices.

    Raises:
        SafetensorError, OSError, ValueError: a file is not readable, or has other rows; also when a tensor is asked
            for.
    """

    def whole(name: str) -> Tensor:
        matrix, _, part = name.rpartition(".")
        if matrix in shapes and part == "mask":
            counted = zip(_parts(name), rows.get(matrix, ()), strict=True)
            kept = [unpack(packed.numpy(), (count, *shapes[matrix][1:])) for packed, count in counted]
            return torch.from_numpy(pack(torch.cat(kept)))
        if matrix in shapes and part == "values":
            return torch.cat(list(_parts(name)))
        if name not in rows:
            return _tensor(paths[0], name)
        parts = list(_parts(name))
        if [len(value) for value in parts] != list(rows[name]):
            raise ValueError(f"{name}: other rows than the manifest's")
        return torch.cat(parts)

    def _parts(name: str) -> Iterator[Tensor]:
        return (_tensor(path, name) for path in paths)

    with safe_open(paths[0], "pt") as file:
        return Lazy(file.keys(), whole)


def masks_of(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> Mapping[str, Tensor]:
    """The masks that stored tensors hold."""
    return Lazy(shapes, lambda name: unpack(tensors[f"{name}.mask"].numpy(), tuple(shapes[name])))


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)
