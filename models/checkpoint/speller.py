"""A speller in a file of its own: a network in bfloat16, and a lexicon where it has one."""

import numpy as np

from models.arrays import Array
from models.checkpoint.quantise import StoredWeights, pack
from models.checkpoint.tensors import from_bytes, to_bytes
from models.config import NetworkConfig, NumberType
from models.words.lexicon import Lexicon
from models.words.speller import Speller

STORAGE: NumberType = "bfloat16"

_LEXICON, _SHARE = "lexicon.", "share"

LEAST_SHARE = 1e-9
"""A lexicon's share is no less, so that no probability of its words is too small to be a number."""

MOST_SEEN = 1 << 53
"""Times that all words of a lexicon were seen, at most: a float holds these exactly."""


def pack_speller(speller: Speller) -> bytes:
    """The content of a file that holds it, its configuration aside."""
    arrays = pack(speller.weights, STORAGE)
    if speller.lexicon is not None:
        listed = speller.lexicon.to_arrays() | {_SHARE: np.array(speller.share)}
        arrays |= {_LEXICON + name: array for name, array in listed.items()}
    return to_bytes(arrays)


def unpack_speller(content: bytes, config: NetworkConfig) -> Speller:
    """Inverse of `pack_speller`, for a speller whose network has that configuration. Raises `ValueError`."""
    stored = from_bytes(content)
    listed = {name.removeprefix(_LEXICON): stored.pop(name) for name in sorted(stored) if name.startswith(_LEXICON)}
    weights = StoredWeights(stored, STORAGE, config)
    try:
        if not listed:
            return Speller(config, weights)
        share = _read_share(listed.pop(_SHARE, None))
        _check_lexicon(listed)
        return Speller(config, weights, Lexicon.from_arrays(listed), share)
    except ValueError as error:
        raise ValueError(f"speller: {error}") from None


def _read_share(share: Array | None) -> float:
    if share is None or share.size != 1 or share.dtype.kind != "f":
        raise ValueError(f"tensor {_LEXICON}{_SHARE}: one number is needed")
    if not LEAST_SHARE <= (value := float(share.item())) < 1:
        raise ValueError(f"tensor {_LEXICON}{_SHARE}: {value} is not from {LEAST_SHARE} to 1")
    return value


def _check_lexicon(listed: dict[str, Array]) -> None:
    """Raises `ValueError` where a tensor is no list of whole numbers, or their sum cannot be counted with."""
    for name, array in listed.items():
        if array.dtype.kind != "u" or array.ndim != 1:
            raise ValueError(f"tensor {_LEXICON}{name}: is no list of whole numbers")
        if array.sum(dtype=np.float64) > MOST_SEEN:
            raise ValueError(f"tensor {_LEXICON}{name}: its sum is more than {MOST_SEEN}")
