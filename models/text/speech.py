"""Text as speech recognisers write it: a normalizer of the `tokenizers` library."""

from tokenizers import Regex, normalizers

_SPOKEN = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint"}
"""Abbreviations that are read as words."""

_NOT_SPOKEN = r"(?<![\p{L}\p{M}\p{N}])'|'(?![\p{L}\p{M}\p{N}])|[^\p{L}\p{M}\p{N}'\s]"
"""Marks, and apostrophes that are not inside a word."""


def speech_normalizer() -> normalizers.Normalizer:
    """Lower case and words alone, whatever a text's case and punctuation."""
    # All but the first letter, which keeps its place: the library loses that of what it replaces.
    return _normalizer([(rf"(?<=\b{short[0]}){short[1:]}\b", word[1:]) for short, word in _SPOKEN.items()])


def first_speech_normalizer() -> normalizers.Normalizer:
    """As it was first written; some models were trained with it."""
    return _normalizer([(rf"\b{short}\b", word) for short, word in _SPOKEN.items()])


def _normalizer(spoken: list[tuple[str, str]]) -> normalizers.Normalizer:
    """spoken: (pattern, what is read in its place)."""
    steps = [normalizers.Lowercase(), normalizers.Replace("’", "'"), normalizers.Replace(Regex(_NOT_SPOKEN), " ")]
    return normalizers.Sequence([*steps, *(normalizers.Replace(Regex(short), word) for short, word in spoken)])
