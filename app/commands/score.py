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

from app.commands.shared import (
    CheckpointsOption,
    ModelOption,
    check_paths,
    fail,
    make_body,
    progress_bar,
    run_with_model,
)
from app.files.bulk import (
    Bucket,
    InputError,
    Item,
    Quantiles,
    ResumableFile,
    bucket_of,
    count_lines,
    in_order,
    read_batches,
    to_json,
)
from app.limits import check_score
from app.registry import ServedModel
from app.schemas import Score, ScoreRequest
from app.settings import Settings
from app.tasks import score as scoring


def score(
    source: Annotated[Path | None, typer.Argument(help="File of lines or JSONL; not given: standard input.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text to score; may be given again.")] = None,
    field: Annotated[str, typer.Option(help="Where a JSONL object has its text.")] = "text",
    lines: Annotated[
        bool, typer.Option("--lines", help="Every line is a text, also where it looks like JSON.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there; not given: standard output.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an interrupted command has done.")] = False,
    thresholds: Annotated[
        str | None,
        typer.Option(help="Perplexities that end head and middle, e.g. 60,150; not given: thirds of an --output."),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print a table rather than JSONL.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Report each token (JSONL).")] = False,
    bos: Annotated[bool, typer.Option(help="A text starts a sentence.")] = True,
    eos: Annotated[bool, typer.Option(help="The end of a text is predicted, and counts.")] = True,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """How probable texts are: one JSON object a text, in the order of the input.

    A JSONL record keeps its fields; those of the score win where names are equal. Beside the figures of /score it gets
    `oov_rate` and `bucket`: head, middle or tail by perplexity, spelling of unknown words included. Interrupted, the
    same command goes on where it was.
    """
    if source is not None and text:
        fail("give a file or --text, not both", code=2)
    check_paths([source], output)
    if table and (tokens or output):
        fail("--table is for the terminal; leave --tokens and --output out", code=2)
    limits = _limits(thresholds)

    async def work(served: ServedModel, settings: Settings) -> None:
        async def scored(batch: list[Item]) -> list[Score]:
            texts = [item.text for item in batch]
            body = make_body(ScoreRequest, text=texts, model=model, bos=bos, eos=eos, tokens=tokens)
            check_score(body, settings)
            return (await scoring.answer(body, served, settings)).scores

        with ExitStack() as stack:
            if text:
                batches = iter([[Item(one, {}) for one in text]])
            else:
                file = stack.enter_context(source.open("rb")) if source else sys.stdin.buffer
                batches = read_batches(file.fileno(), None if lines else field)
            progress = stack.enter_context(progress_bar())
            task = progress.add_task("scoring", total=count_lines(source) if source and source.is_file() else None)
            if output:
                options = {"field": field, "lines": lines, "bos": bos, "eos": eos, "tokens": tokens}
                made_by = {"model": served.checkpoint.digests, "backend": served.engine.backend, **options}
                kept = stack.enter_context(ResumableFile(output, made_by, restart))
                progress.advance(task, kept.kept)
                async with aclosing(in_order(_after(batches, kept.lines()), scored)) as results:
                    async for batch, scores in results:
                        kept.write([_line(*pair, None) for pair in zip(batch, scores, strict=True)])
                        progress.advance(task, len(batch))
                _finish(kept, limits)
            else:
                rows = Table("logprob", "perplexity", "bits/character", "oov", "text")
                async with aclosing(in_order(batches, scored)) as results:
                    async for batch, scores in results:
                        for item, found in zip(batch, scores, strict=True):
                            if table:
                                figures = (_figure(found.perplexity), _figure(found.bits_per_character), str(found.oov))
                                rows.add_row(f"{found.logprob:.3f}", *figures, Text(found.text))
                            else:
                                sys.stdout.write(_line(item, found, limits) + "\n")
                        sys.stdout.flush()
                        progress.advance(task, len(batch))
                if table:
                    Console().print(rows)

    run_with_model(work, model, checkpoints)


def _limits(thresholds: str | None) -> tuple[float, float] | None:
    """In nats per token."""
    if thresholds is None:
        return None
    try:
        low, high = (math.log(float(part)) for part in thresholds.split(","))
    except ValueError:
        fail(f"--thresholds: {thresholds!r} is not two perplexities, e.g. 60,150", code=2)
    if not low <= high < math.inf:
        fail(f"--thresholds: {thresholds!r}: the lower one comes first", code=2)
    return low, high


def _after(batches: Iterator[list[Item]], lines: Iterator[str]) -> Iterator[list[Item]]:
    """The items that no line has been made of yet. Raises `InputError` where a line was made of another text."""
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
                raise InputError(f"text {number} is not the one that was scored before; --restart begins anew")
        if rest:
            yield rest
    if next(done, None) is not None:
        raise InputError("there are fewer texts than were scored before; --restart begins anew")


def _line(item: Item, found: Score, limits: tuple[float, float] | None) -> str:
    values = item.record | found.model_dump(exclude_unset=True)
    values["oov_rate"] = found.oov / found.tokens if found.tokens else None
    if limits:
        values["bucket"] = _bucket(values, *limits)
    return to_json(values)


def _finish(kept: ResumableFile, limits: tuple[float, float] | None) -> None:
    """Where no thresholds are given, a third of the texts goes into each bucket."""
    if limits is None:
        quantiles = Quantiles()
        for line in kept.lines():
            nats = _nats(json.loads(line))
            if nats is not None:
                quantiles.add(nats)
        limits = quantiles.below(1 / 3), quantiles.below(2 / 3)
    low, high = limits

    def with_bucket(line: str) -> str:
        values = json.loads(line)
        return to_json(values | {"bucket": _bucket(values, low, high)})

    kept.finish(with_bucket)
    Console(stderr=True).print(f"head: perplexity below {math.exp(low):.1f}; tail: from {math.exp(high):.1f} on")


def _nats(values: dict[str, Any]) -> float | None:
    """Per token, unknown words spelled where the model can: a text of unknown words alone is not a probable one."""
    logprob = values.get("logprob_open")
    logprob = values["logprob"] if logprob is None else logprob
    return -logprob / values["tokens"] if values["tokens"] else None


def _bucket(values: dict[str, Any], low: float, high: float) -> Bucket | None:
    nats = _nats(values)
    return None if nats is None else bucket_of(nats, low, high)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
