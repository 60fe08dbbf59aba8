"""`surprisal`: a table of the words of sentences, and how surprising each is, for reading-time studies and the like."""

import csv
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from app.commands.shared import (
    CheckpointsOption,
    check_paths,
    json_lines_out,
    make_body,
    progress_bar,
    run_with_models,
)
from app.files.lines import InputError, decode
from app.tasks import score as scoring
from app.tasks.score import Score, ScoreRequest, WordDetail
from app.tasks.task import Call
from models.files import replacing

AT_ONCE = 64
"""Sentences that are scored together where each stands alone."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}

FIGURES = ("surprisal", "oov", "frequency_rank")


class Sentence(NamedTuple):
    """columns: the other ones of its row, by name. item: what it is a part of; None where it stands alone."""

    text: str
    columns: dict[str, str]
    item: str | None


def surprisal(
    source: Annotated[
        Path | None, typer.Argument(help="A sentence a line, or .csv or .tsv; without it, lines of standard input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The TSV to write; without it, standard output.")
    ] = None,
    field: Annotated[str, typer.Option(help="Column of a CSV or TSV that holds the sentence.")] = "text",
    context: Annotated[
        str | None,
        typer.Option(help="Column that names what a row is a part of, a story: rows of one, in a row, are read on."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Name of a checkpoint. Repeatable: columns for each.")
    ] = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """How surprising each word is: a TSV with a row for each word.

    Columns: sentence and word_number, from 1; the word with its punctuation; start and end in the sentence; surprisal
    in bits, the spelling of an unknown word included; whether a part of it is unknown; frequency_rank, of its rarest
    part that is not (0: the commonest of the vocabulary). The other columns of a CSV or TSV stay. The end of a sentence
    is a word without letters, and counts; with --context there is none, as the text goes on.
    """
    check_paths([source], output)

    async def work(calls: list[Call]) -> None:
        sentences = list(_sentences(source, field, context))
        columns = list(sentences[0].columns) if sentences else []
        names = [call.served.name for call in calls]
        shown = [figure if len(calls) == 1 else f"{figure}_{name}" for name in names for figure in FIGURES]
        with replacing(output) if output else nullcontext(json_lines_out()) as out, progress_bar() as progress:
            table = csv.writer(out, delimiter="\t", lineterminator="\n")
            table.writerow(["sentence", "word_number", "word", "start", "end", *shown, *columns])
            task, number = progress.add_task("sentences", total=len(sentences)), 0
            async for batch, scores in _scored(sentences, calls):
                for sentence, found in zip(batch, scores, strict=True):
                    number += 1
                    rows = [_figures(score, call) for score, call in zip(found, calls, strict=True)]
                    for place, word in enumerate(found[0].words_detail or [], 1):
                        figures = [figure for row in rows for figure in row[place - 1]]
                        shift = len(sentence.text) - len(found[0].text)  # a space before it, where a text goes on
                        where = max(0, word.start + shift), max(0, word.end + shift)
                        table.writerow([number, place, word.word, *where, *figures, *sentence.columns.values()])
                progress.advance(task, len(batch))

    run_with_models(work, model or [None], checkpoints)


def _sentences(source: Path | None, field: str, context: str | None) -> Iterator[Sentence]:
    """Raises `InputError` where a column is missing, or a line is not UTF-8."""
    content = source.read_bytes() if source else sys.stdin.buffer.read()
    lines = [decode(line, number) for number, line in enumerate(content.split(b"\n"), 1)]
    delimiter = DELIMITERS.get(source.suffix.lower()) if source else None
    if delimiter is None:
        if context is not None:
            raise InputError(f"--context {context}: lines have no columns; give a .csv or .tsv file")
        yield from (Sentence(line, {}, None) for line in lines if line.strip())
        return
    rows = csv.DictReader((f"{line}\n" for line in lines), delimiter=delimiter, restkey="", restval="")
    for name in filter(None, (field, context)):
        if name not in (rows.fieldnames or []):
            raise InputError(f"{source}: has no column {name!r}; it has {', '.join(rows.fieldnames or ['none'])}")
    for row in rows:
        columns = {name: str(value) for name, value in row.items() if name not in (field, "")}
        yield Sentence(row[field], columns, row[context] if context else None)


async def _scored(
    sentences: Sequence[Sentence], calls: Sequence[Call]
) -> AsyncIterator[tuple[Sequence[Sentence], list[list[Score]]]]:
    """Sentences in their order, and the scores of each, by each model."""
    if not sentences or sentences[0].item is None:
        for first in range(0, len(sentences), AT_ONCE):
            batch = sentences[first : first + AT_ONCE]
            by_model = [await _score([sentence.text for sentence in batch], call) for call in calls]
            yield batch, [list(scores) for scores in zip(*by_model, strict=True)]
        return
    item, states = None, list[str | None]([None] * len(calls))
    for sentence in sentences:
        goes_on = sentence.item == item
        text = f" {sentence.text}" if goes_on else sentence.text
        found = [
            (await _score([text], call, reads_on=True, state=state if goes_on else None))[0]
            for call, state in zip(calls, states, strict=True)
        ]
        item, states = sentence.item, [score.state for score in found]
        yield [sentence], [found]


async def _score(texts: list[str], call: Call, reads_on: bool = False, state: str | None = None) -> list[Score]:
    options = {"words": True, "tokens": True, "eos": not reads_on, "return_state": reads_on, "state": state}
    return (await scoring.answer(make_body(ScoreRequest, text=texts, **options), call)).scores


def _figures(score: Score, call: Call) -> list[tuple[float, int, int | str]]:
    """`FIGURES` of each word."""
    return [(word.surprisal_bits, int(word.oov), _rank(word, score, call)) for word in score.words_detail or []]


def _rank(word: WordDetail, score: Score, call: Call) -> int | str:
    """The place in the vocabulary, commonest first, of the rarest token of a word that is known; else nothing."""
    tokenizer = call.served.checkpoint.tokenizer
    special = (tokenizer.unk_id, tokenizer.eos_id)
    parts = [d.id for d in score.details or [] if word.start < d.end <= word.end and d.id not in special]
    return max(parts) - len(special) if parts else ""
