"""A state that leaves the process as a string, and comes back to any process that runs the same weights:

    version 1 byte | model 8 | flags 1 | position 8 | S 4 | S float32 values, little-endian | checksum 8 or 32

in URL-safe base64 without padding. There is one such string for a state, and no other is taken. Where there is a
secret, the checksum is of 32 bytes and keyed with it (BLAKE2 as a MAC, RFC 7693): only who has the secret makes states.
"""

import base64
import hashlib
import hmac
import math
import struct
from dataclasses import dataclass

import numpy as np

from models.arrays import Array

STATE_VERSION = 1

MAX_VALUE = float(1 << 40)
"""No value of a state is larger, whatever its sign: a token adds at most 1 to a cell. So what is computed from a state
that anyone may have made stays finite, the weights being those of a checkpoint (models/checkpoint/quantise.py)."""

_HEADER = struct.Struct("<B8sBQI")
_CHECKSUM_BYTES, _MAC_BYTES = 8, 32
_MODEL = slice(1, 9)
_AT_START, _OPEN_SPACE = 1, 2


class StateError(ValueError):
    """A string that is not a state of this model; the message says which check failed."""


@dataclass(frozen=True)
class SavedState:
    """All there is to know of the tokens consumed so far.

    row: (S,), float32. position: how many tokens there were, the start symbol included. at_start: whether the text so
    far is empty or ends in white space, so that the next word needs no space before it. open_space: whether the text
    ends in a space that belongs to the next token, and has not been consumed.
    """

    row: Array
    position: int
    at_start: bool
    open_space: bool = False

    def encode(self, model: str, secret: bytes = b"") -> str:
        """As a string. model: version of the model that made it, in hexadecimal. secret: at most 64 bytes."""
        flags = _AT_START * self.at_start + _OPEN_SPACE * self.open_space
        header = _HEADER.pack(STATE_VERSION, _model(model), flags, self.position, len(self.row))
        content = header + self.row.astype("<f4").tobytes()
        return base64.urlsafe_b64encode(content + _checksum(content, secret)).decode().rstrip("=")

    @staticmethod
    def model_of(text: str) -> bytes | None:
        """The first bytes of the version of the model that made a state; None where the text is no state at all."""
        try:
            return base64.b64decode(text[:12], altchars=b"-_", validate=True)[_MODEL]
        except ValueError:
            return None

    @classmethod
    def decode(cls, text: str, size: int, model: str, secret: bytes = b"") -> "SavedState":
        """Inverse of `encode`, for a model whose states have `size` floats. Raises `StateError`."""
        checksum_bytes = _MAC_BYTES if secret else _CHECKSUM_BYTES
        expected = math.ceil((_HEADER.size + 4 * size + checksum_bytes) * 4 / 3)
        if len(text) != expected:
            raise StateError(f"has {len(text)} characters where this model's states have {expected}")
        try:
            content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise StateError("is not URL-safe base64") from None
        version, made_by, flags, position, count = _HEADER.unpack_from(content)
        if version != STATE_VERSION:
            raise StateError(f"has format version {version}, not {STATE_VERSION}")
        body = content[:-checksum_bytes]
        if not hmac.compare_digest(content[-checksum_bytes:], _checksum(body, secret)):
            raise StateError("has a wrong checksum: it was changed on its way" + ", or made for others" * bool(secret))
        if made_by != _model(model):
            raise StateError("is a state of another model")
        if count != size or flags > _AT_START + _OPEN_SPACE or position >= 1 << 62:
            raise StateError("has a header that no state of this model has")
        row = np.frombuffer(body[_HEADER.size :], dtype="<f4").astype(np.float32)
        if not (np.abs(row) <= MAX_VALUE).all():
            raise StateError("holds values that are not finite, or larger than any text leads to")
        state = cls(row, position, bool(flags & _AT_START), bool(flags & _OPEN_SPACE))
        if state.encode(model, secret) != text:
            raise StateError("is not in the one form that a state is written in")
        return state


def _model(version: str) -> bytes:
    return bytes.fromhex(version)[:8]


def _checksum(content: bytes, secret: bytes) -> bytes:
    size = _MAC_BYTES if secret else _CHECKSUM_BYTES
    return hashlib.blake2b(content, digest_size=size, key=secret).digest()
