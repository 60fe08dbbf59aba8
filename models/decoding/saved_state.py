"""A state that leaves the process as a string, and comes back to any process that runs the same weights:

    version 1 byte | model 8 | flags 1 | position 8 | S 4 | S float32 values, little-endian | checksum 8

in URL-safe base64 without padding. There is one such string for a state, and no other is taken.
"""

import base64
import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np

from models.arrays import Array

STATE_VERSION = 1

_HEADER = struct.Struct("<B8sBQI")
_CHECKSUM_BYTES = 8
_AT_START = 1


class StateError(ValueError):
    """A string that is not a state of this model; the message says which check failed."""


@dataclass(frozen=True)
class SavedState:
    """All there is to know of the tokens consumed so far.

    row: (S,), float32. position: how many tokens there were, the start symbol included. at_start: whether the text so
    far is empty or ends in white space, so that the next word needs no space before it.
    """

    row: Array
    position: int
    at_start: bool

    def encode(self, fingerprint: str) -> str:
        """As a string. fingerprint: SHA-256 of the weights, in hexadecimal."""
        header = _HEADER.pack(
            STATE_VERSION, _model(fingerprint), _AT_START * self.at_start, self.position, len(self.row)
        )
        content = header + self.row.astype("<f4").tobytes()
        return base64.urlsafe_b64encode(content + _checksum(content)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, size: int, fingerprint: str) -> "SavedState":
        """Inverse of `encode`, for a model whose states have `size` floats. Raises `StateError`."""
        expected = math.ceil((_HEADER.size + 4 * size + _CHECKSUM_BYTES) * 4 / 3)
        if len(text) != expected:
            raise StateError(f"has {len(text)} characters where this model's states have {expected}")
        try:
            content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise StateError("is not URL-safe base64") from None
        version, model, flags, position, count = _HEADER.unpack_from(content)
        if version != STATE_VERSION:
            raise StateError(f"has format version {version}, not {STATE_VERSION}")
        if content[-_CHECKSUM_BYTES:] != _checksum(content[:-_CHECKSUM_BYTES]):
            raise StateError("has a wrong checksum: it was changed on its way")
        if model != _model(fingerprint):
            raise StateError("is a state of another model")
        if count != size or flags > _AT_START or position >= 1 << 62:
            raise StateError("has a header that no state of this model has")
        row = np.frombuffer(content[_HEADER.size : -_CHECKSUM_BYTES], dtype="<f4").astype(np.float32)
        if not np.isfinite(row).all():
            raise StateError("holds values that are not finite")
        state = cls(row, position, bool(flags & _AT_START))
        if state.encode(fingerprint) != text:
            raise StateError("is not in the one form that a state is written in")
        return state


def _model(fingerprint: str) -> bytes:
    return bytes.fromhex(fingerprint)[:8]


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
