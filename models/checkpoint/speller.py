"""A speller in a file of its own: a network in bfloat16, and a lexicon where it has one."""

import numpy as np

from models.checkpoint.quantise import StoredWeights, pack
from models.checkpoint.tensors import from_bytes, to_bytes
from models.config import NetworkConfig, NumberType
from models.words.lexicon import Lexicon
from models.words.speller import Speller

STORAGE: NumberType = "bfloat16"

_LEXICON, _SHARE = "lexicon.", "share"


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
        if _SHARE not in listed or listed[_SHARE].size != 1:
            raise ValueError(f"tensor {_LEXICON}{_SHARE}: one number is needed")
        share = float(listed.pop(_SHARE).item())
        return Speller(config, weights, Lexicon.from_arrays(listed), share)
    except ValueError as error:
        raise ValueError(f"speller: {error}") from None
