"""What identifies a model: SHA-256 digests of its numbers, of its other files, and of whole folders."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sau.errors import ModelError


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Of name, dtype, shape and bytes of tensors, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):  # one at a time: not all of them need be in memory
        digest.update(_tensor_bytes(name, tensors[name]))
    return digest.hexdigest()


def dense_digest(folder: Path) -> str:
    """Of the tensors in a dense folder's safetensors files, however they are sharded, one in memory at a time.

    Raises:
        ModelError: there are none, or a file is not readable.
    """
    files: dict[str, Path] = {}
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        if not files:
            raise ModelError(f"{folder}: no safetensors file, weights in any other format are not opened")
        for name, path in sorted(files.items()):
            with safe_open(path, "pt") as file:
                digest.update(_tensor_bytes(name, file.get_tensor(name)))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: weights not readable ({type(error).__name__})") from None
    return digest.hexdigest()


def _tensor_bytes(name: str, tensor: Tensor) -> bytes:
    header = f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}\n"
    return header.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def side_digest(prompt: str, files: Mapping[str, str]) -> str:
    """Of the prompt, and of names and digests of the files beside the weights: config and tokenizer."""
    return hashlib.sha256(json.dumps([prompt, dict(files)], sort_keys=True).encode()).hexdigest()


def check_distinct(digests: Mapping[str, str]) -> None:
    """Refuse the same weights in two roles: a model beside itself shows nothing.

    Args:
        digests: role, such as before or reference, -> weights digest.

    Raises:
        ModelError: names the two roles.
    """
    roles: dict[str, str] = {}
    for role, digest in digests.items():
        if (other := roles.setdefault(digest, role)) != role:
            raise ModelError(f"{other} and {role} have the same weights, digest {digest}: two models are needed")


def folder_digest(folder: Path) -> str:
    """Of the names and bytes of all files in a folder."""
    lines = (f"{p.relative_to(folder)} {file_sha256(p)}\n" for p in sorted(folder.rglob("*")) if p.is_file())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
