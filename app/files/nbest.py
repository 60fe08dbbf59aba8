"""N-best lists of a recogniser: reading them, and writing them in their new order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.files.lines import InputError, arriving_lines, decode, parse_record, to_json
from app.tasks.rescore import reordered

HIGHEST_SCORE = 1e9
"""Largest magnitude of a hypothesis's score."""

TOGETHER = 256
"""Hypotheses that are scored together, or a few more."""


@dataclass
class NBestList:
    """Hypotheses of one utterance. record: the JSON object that contained them; None: they were lines."""

    texts: list[str]
    scores: list[float]
    reference: str | None
    record: dict[str, Any] | None


def read_nbest(descriptor: int, field: str, reference_field: str) -> Iterator[list[NBestList]]:
    """N-best lists in batches: JSON objects with a list of `{"text", "score"}` under `field`; or lines of text, tab
    and score with an empty line after each list. Raises `InputError`.
    """
    together: list[NBestList] = []
    for nbest in _nbest_lists(descriptor, field, reference_field):
        together.append(nbest)
        if sum(len(each.texts) for each in together) >= TOGETHER:
            yield together
            together = []
    if together:
        yield together


def _nbest_lists(descriptor: int, field: str, reference_field: str) -> Iterator[NBestList]:
    is_jsonl: bool | None = None
    texts: list[str] = []
    scores: list[float] = []
    lines = (line for lines in arriving_lines(descriptor) for line in lines)
    for number, content in enumerate(lines, 1):
        line = decode(content, number)
        if is_jsonl is None and line.strip():
            is_jsonl = line.lstrip().startswith("{")
        if is_jsonl and line.strip():
            yield _parse_nbest(line, field, reference_field, number)
        elif line.strip():
            text, tab, score = line.rpartition("\t")
            try:
                scores.append(_score(score))
            except ValueError:
                tab = ""
            if not tab:
                raise InputError(f"line {number}: not a text, a tab and a score")
            texts.append(text)
        elif texts:
            yield NBestList(texts, scores, None, None)
            texts, scores = [], []
    if texts:
        yield NBestList(texts, scores, None, None)


def _parse_nbest(line: str, field: str, reference_field: str, number: int) -> NBestList:
    record = parse_record(line, number, "")
    hypotheses, reference = record.get(field), record.get(reference_field)
    if not isinstance(hypotheses, list) or not hypotheses:
        raise InputError(f"line {number}: no list of hypotheses under {field!r}; name its field with --field")
    if reference is not None and not isinstance(reference, str):
        raise InputError(f"line {number}: {reference_field!r} is not a text")
    try:
        texts = [str(hypothesis["text"].encode(), "utf-8") for hypothesis in hypotheses]
        scores = [_score(hypothesis["score"]) for hypothesis in hypotheses]
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        raise InputError(f'line {number}: a hypothesis under {field!r} is not {{"text": …, "score": …}}') from None
    return NBestList(texts, scores, reference, record)


def _score(value: Any) -> float:
    """Raises `ValueError`, `TypeError` or `OverflowError`."""
    score = float(value)
    if not abs(score) <= HIGHEST_SCORE:
        raise ValueError("not a log-probability")
    return score


def rescored_line(nbest: NBestList, logprobs: list[float], weights: tuple[float, float], field: str) -> str:
    """A list in its input format, best hypothesis first; hypotheses of JSON keep their other fields.

    weights: (weight, length_weight).
    """
    hypotheses = reordered(nbest.texts, nbest.scores, logprobs, *weights)
    if nbest.record is None:
        return "".join(f"{each.text}\t{each.total:.6g}\n" for each in hypotheses)
    read = nbest.record[field]
    return to_json(nbest.record | {field: [read[each.index] | each.model_dump() for each in hypotheses]})
