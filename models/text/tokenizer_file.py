"""What a `tokenizer.json` may hold: a vocabulary, and around it exactly the parts that training puts there.

The library would run whatever a file names: a padding to a million tokens, a pattern that takes hours. So a file is
compared with what its level writes, and the tokenizer is built from our own parts and the file's vocabulary.
"""

import json
from functools import cache
from typing import Any

import tokenizers

from models.text.levels import EOS, LEVELS, UNK, Level
from models.text.speech import first_speech_normalizer, speech_normalizer

Json = Any

_LEARNED = ("vocab", "merges")
"""The fields of `model` that are the file's own."""


def read_tokenizer(content: bytes, level: Level) -> tokenizers.Tokenizer:
    """The tokenizer that a file describes. Raises `ValueError`, naming the part that is not what the level writes."""
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a tokenizer file ({error})") from None
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ValueError("not a tokenizer file (it has no vocabulary)")
    learned = {name: model[name] for name in _LEARNED if name in model}
    _check_vocabulary(learned["vocab"])
    own = _parts_of(found, level)
    rest = {**found, "model": {name: value for name, value in model.items() if name not in _LEARNED}}
    if other := _difference(rest, own):
        raise ValueError(f"{other}: is not what training writes at level {level}; nothing else is run")
    try:
        return tokenizers.Tokenizer.from_str(json.dumps({**own, "model": {**own["model"], **learned}}))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"not a tokenizer file ({error})") from None


def _parts_of(found: dict[str, Json], level: Level) -> Json:
    """The parts of a level, with the normalizer that the file has, if that is one of ours."""
    candidates = _parts(level)
    return next((own for own in candidates if own["normalizer"] == found.get("normalizer")), candidates[0])


@cache
def _parts(level: Level) -> list[Json]:
    """What training writes at a level, the vocabulary aside: for every normalizer that it knows or once knew."""
    found = []
    for normalizer in (None, speech_normalizer(), first_speech_normalizer()):
        inner = LEVELS[level].untrained()
        inner.add_special_tokens(LEVELS[level].specials())
        if normalizer is not None:
            inner.normalizer = normalizer
        own = json.loads(inner.to_str())
        own["model"] = {name: value for name, value in own["model"].items() if name not in _LEARNED}
        found.append(own)
    return found


def _difference(found: Json, own: Json, path: str = "") -> str | None:
    """Where a file first says something else. What another version of the library adds is none if it is off."""
    if isinstance(found, dict) and isinstance(own, dict):
        off = {name: None for name, value in found.items() if name not in own and value in (None, False)}
        pairs = {name: (found.get(name), own.get(name, ...)) for name in {**own, **found} if name not in off}
        return next(filter(None, (_difference(*pair, f"{path}.{name}"[:80]) for name, pair in pairs.items())), None)
    if isinstance(found, list) and isinstance(own, list) and len(found) == len(own):
        places = enumerate(zip(found, own, strict=True))
        return next(filter(None, (_difference(*pair, f"{path}[{place}]") for place, pair in places)), None)
    return None if type(found) is type(own) and found == own else path.removeprefix(".") or "the file"


def _check_vocabulary(vocabulary: dict[str, Json]) -> None:
    """Ids are those of rows of a matrix, and the first two are what `added_tokens` says."""
    if not all(type(token_id) is int for token_id in vocabulary.values()) or (
        sorted(vocabulary.values()) != list(range(len(vocabulary)))
    ):
        raise ValueError("the vocabulary's ids are not 0 … V-1, each once")
    for token_id, special in enumerate((UNK, EOS)):
        if vocabulary.get(special) != token_id:
            raise ValueError(f"the vocabulary has no {special} with the id {token_id}")
