"""Files that hold a SHA-256 of themselves: damage is found when they are read, and not in what comes of them.

Files without a sum, as earlier versions wrote them, are read all the same.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.files import write_atomically

SUM = "sha256"
"""The key of the sum: in the object of a JSON file, in the metadata of a safetensors file."""


class DamagedError(ValueError):
    """A file that is not as it was written. path: which one. reason: what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


WRONG_SUM = "is damaged: its SHA-256 is not the one that it was written with"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON object in a file that appears whole or not at all."""
    text = json.dumps({**values, SUM: _sum(values)}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Inverse of `write_json`. Raises `FileNotFoundError`, and `DamagedError` on a file that cannot be trusted."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DamagedError(path, f"is damaged: it cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise DamagedError(path, "is damaged: it is not a JSON object")
    written = values.pop(SUM, None)
    if written is not None and written != _sum(values):
        raise DamagedError(path, f'{WRONG_SUM}; if it was edited on purpose, remove "{SUM}" from it')
    return values


def _sum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Tensors and metadata in a safetensors file that appears whole or not at all."""
    on_processor = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    known = dict(metadata or {})
    write_atomically(path, save(on_processor, known | {SUM: _sum_of_tensors(on_processor, known)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Inverse of `write_tensors`: tensors and metadata. Raises `FileNotFoundError`, and `DamagedError` on a file that
    cannot be trusted."""
    content = path.read_bytes()
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise DamagedError(path, f"is damaged: it is not a safetensors file ({error})") from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    written = metadata.pop(SUM, None)
    if written is not None and written != _sum_of_tensors(tensors, metadata):
        raise DamagedError(path, WRONG_SUM)
    return tensors, metadata


def _sum_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of all that reading gives back: names, types, shapes and numbers, in the order of the names."""
    kinds = {name: [str(one.dtype), list(one.shape)] for name, one in tensors.items()}
    digest = hashlib.sha256(json.dumps([kinds, dict(metadata)], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sum(path: Path) -> str:
    """The SHA-256 of a file, for another file to keep. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
