"""`score`: how probable texts are, a few or a hundred million."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.commands.options import with_fields
from app.commands.shared import (
    CheckpointsOption,
    ModelOption,
    check_paths,
    fail,
    json_lines_out,
    make_body,
    progress_bar,
    run_with_model,
)
from app.errors import InvalidValueError
from app.files.buckets import Quantiles, bucket_of, nats_per_token, parse_thresholds
from app.files.lines import InputError, count_lines, to_json
from app.files.pipeline import in_order
from app.files.resumable import ResumableFile
from app.files.texts import Item, read_batches
from app.tasks import score as scoring
from app.tasks.score import Score, ScoreRequest
from app.tasks.task import Call


@with_fields(ScoreRequest, ["tokens", "bos", "eos"])
def score(
    source: Annotated[Path | None, typer.Argument(help="File of lines or JSONL; without it, standard input.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text to score. Repeatable.")] = None,
    field: Annotated[str, typer.Option(help="Field of a JSONL object that holds the text.")] = "text",
    lines: Annotated[
        bool, typer.Option("--lines", help="Every line is a text, also where it looks like JSON.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; without it, standard output.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what an interrupted command has written.")] = False,
    thresholds: Annotated[
        str | None,
        typer.Option(
            help="Open perplexities that end head and middle, e.g. 60,150; without it, thirds of an --output."
        ),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print a table rather than JSONL.")] = False,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
    **fields: Any,
) -> None:
    """How probable texts are: a JSON object for each text, in the order of the input.

    A JSONL record keeps its fields; the fields of the score replace fields of the same name. Beside the figures of
    /score it gets `oov_rate` and `bucket`: head, middle or tail by `perplexity_open`, which counts the spelling of
    unknown words, and by `perplexity` where the model cannot spell.
    After an interruption, the same command continues where it stopped.
    """
    if source is not None and text:
        fail("give a file or --text, not both", code=2)
    check_paths([source], output)
    if table and (fields["tokens"] or output):
        fail("--table is for the terminal; leave --tokens and --output out", code=2)
    limits = _limits(thresholds)

    async def work(call: Call) -> None:
        async def scored(batch: list[Item]) -> list[Score | str]:
            """The score of each text, or what is wrong with it."""
            texts = [item.text for item in batch]
            body = make_body(ScoreRequest, text=texts, model=model, **fields)
            scoring.TASK.check(body, call)
            try:
                return [*(await scoring.answer(body, call)).scores]
            except InvalidValueError as error:
                if len(batch) == 1:
                    return [error.message.partition(": ")[2]]
                return [found for item in batch for found in await scored([item])]

        with ExitStack() as stack:
            if text:
                batches = iter([[Item(one, {}) for one in text]])
            else:
                file = stack.enter_context(source.open("rb")) if source else sys.stdin.buffer
                batches = read_batches(file.fileno(), None if lines else field)
            progress = stack.enter_context(progress_bar())
            task = progress.add_task("scoring", total=count_lines(source) if source and source.is_file() else None)
            if output:
                options = {"field": field, "lines": lines, **{name: fields[name] for name in ("bos", "eos", "tokens")}}
                made_by = {"model": call.served.checkpoint.digests, "backend": call.served.engine.backend, **options}
                kept = stack.enter_context(ResumableFile(output, made_by, restart))
                progress.advance(task, kept.kept)
                async with aclosing(in_order(_after(batches, kept.lines()), scored)) as results:
                    async for batch, scores in results:
                        kept.write([_line(*pair, None) for pair in zip(batch, scores, strict=True)])
                        progress.advance(task, len(batch))
                _finish(kept, limits, "perplexity_open" if call.served.checkpoint.speller else "perplexity")
            else:
                out = sys.stdout if table else json_lines_out()
                rows = Table("logprob", "perplexity", "bits/character", "oov", "text")
                async with aclosing(in_order(batches, scored)) as results:
                    async for batch, scores in results:
                        for item, found in zip(batch, scores, strict=True):
                            if table and isinstance(found, str):
                                rows.add_row("-", "-", "-", "-", Text(f"{item.text[:40]}… {found}"))
                            elif table and isinstance(found, Score):
                                figures = (_figure(found.perplexity), _figure(found.bits_per_character), str(found.oov))
                                rows.add_row(f"{found.logprob:.3f}", *figures, Text(found.text))
                            else:
                                out.write(_line(item, found, limits) + "\n")
                        out.flush()
                        progress.advance(task, len(batch))
                if table:
                    Console().print(rows)

    run_with_model(work, model, checkpoints)


def _limits(thresholds: str | None) -> tuple[float, float] | None:
    """In nats per token."""
    try:
        return None if thresholds is None else parse_thresholds(thresholds)
    except ValueError as error:
        fail(f"--thresholds: {error}", code=2)


def _after(batches: Iterator[list[Item]], lines: Iterator[str]) -> Iterator[list[Item]]:
    """The items that have no line yet. Raises `InputError` where a line was made from another text."""
    done = (json.loads(line)["text"] for line in lines)
    number = 0
    for batch in batches:
        rest: list[Item] = []
        for item in batch:
            number += 1
            text = None if rest else next(done, None)
            if text is None:
                rest.append(item)
            elif text != item.text:
                raise InputError(f"text {number} is not the text that was scored before; --restart begins anew")
        if rest:
            yield rest
    if next(done, None) is not None:
        raise InputError("the input has fewer texts than were scored before; --restart begins anew")


def _line(item: Item, found: Score | str, limits: tuple[float, float] | None) -> str:
    """The record of a text. One that cannot be scored says so under `error`, and the others are scored all the same."""
    if isinstance(found, str):
        return to_json(item.record | {"text": item.text, "error": found})
    values = item.record | found.model_dump(exclude_unset=True)
    values["oov_rate"] = found.oov / found.tokens if found.tokens else None
    if limits:
        values["bucket"] = bucket_of(values, *limits)
    return to_json(values)


def _finish(kept: ResumableFile, limits: tuple[float, float] | None, figure: str) -> None:
    """Add the buckets and finish the file. limits: of `bucket_of`; None: a third of the texts goes into each bucket.
    figure: the field that they are limits of."""
    if limits is None:
        quantiles = Quantiles()
        for line in kept.lines():
            nats = nats_per_token(json.loads(line))
            if nats is not None:
                quantiles.add(nats)
        limits = quantiles.below(1 / 3), quantiles.below(2 / 3)
    low, high = limits

    def with_bucket(line: str) -> str:
        values = json.loads(line)
        return to_json(values | {"bucket": bucket_of(values, low, high)})

    kept.finish(with_bucket)
    Console(stderr=True).print(f"head: {figure} below {math.exp(low):.1f}; tail: from {math.exp(high):.1f} on")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
