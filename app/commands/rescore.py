"""`rescore`: n-best lists of a recogniser, reordered with the help of language models."""

import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.commands.options import with_fields
from app.commands.shared import (
    CheckpointsOption,
    ModelOption,
    check_paths,
    fail,
    json_lines_out,
    progress_bar,
    run_with_models,
)
from app.errors import at_most
from app.files.lines import InputError, count_lines
from app.files.nbest import NBestList, read_nbest, rescored_line
from app.files.pipeline import in_order
from app.files.tuning import cross_validate, tune
from app.files.word_errors import NBest, WordErrors
from app.tasks.rescore import RescoreRequest, hypothesis_logprobs
from app.tasks.task import Call
from models.files import replacing


@with_fields(RescoreRequest, ["lowercase", "bos", "eos"])
def rescore(
    source: Annotated[
        Path | None, typer.Argument(help="JSONL, or lines of text, tab, score; without it, standard input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; without it, standard output.")
    ] = None,
    weight: Annotated[float, typer.Option(help="Weight of the model's log-probability.")] = 0.5,
    length_weight: Annotated[float, typer.Option(help="Weight of the number of words.")] = 0.0,
    tune_on: Annotated[
        Path | None, typer.Option("--tune", help="Lists with references: choose both weights for fewest errors there.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tune on the lists themselves, in this many parts: each part gets weights tuned on the other parts.",
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="Field of a JSON object that holds the hypotheses.")] = "hyps",
    reference_field: Annotated[
        str, typer.Option(help="Field that holds the reference, the text that was really said.")
    ] = "ref",
    model: ModelOption = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Another checkpoint; the mean log-probability of the models counts. Repeatable."),
    ] = None,
    checkpoints: CheckpointsOption = None,
    **fields: Any,
) -> None:
    """Reorder n-best lists by score + weight * logprob + length-weight * words.

    JSONL: {"hyps": [{"text": …, "score": …}, …], "ref": …} a line; lists of lines have an empty line between them.
    Where there are references, a table of word error rates follows on standard error.
    """
    check_paths([source, tune_on], output)
    if tune_on is not None and folds is not None:
        fail("--tune and --folds both choose the weights: use one of the two", code=2)

    async def work(calls: list[Call]) -> None:
        async def logprobs_of(lists: list[NBestList]) -> list[list[float]]:
            for nbest in lists:
                limit = calls[0].settings.max_texts
                at_most("hypotheses", len(nbest.texts), limit, " hypotheses of one utterance")
            texts = [text for nbest in lists for text in nbest.texts]
            by_model = [await hypothesis_logprobs(texts, call=call, **fields) for call in calls]
            means = (sum(logprobs) / len(calls) for logprobs in zip(*by_model, strict=True))
            return [[next(means) for _ in nbest.texts] for nbest in lists]

        async def read(path: Path | None, task_name: str) -> AsyncGenerator[tuple[NBestList, list[float]]]:
            with ExitStack() as stack:
                file = stack.enter_context(path.open("rb")) if path else sys.stdin.buffer
                progress = stack.enter_context(progress_bar())
                total = count_lines(path) if path and path.is_file() else None
                task = progress.add_task(task_name, total=total)
                batches = read_nbest(file.fileno(), field, reference_field)
                async with aclosing(in_order(batches, logprobs_of)) as results:
                    async for lists, logprobs in results:
                        for pair in zip(lists, logprobs, strict=True):
                            yield pair
                        progress.advance(task, len(lists))

        weights = [(weight, length_weight)]
        if tune_on is not None:
            errors_of = WordErrors()
            async with aclosing(read(tune_on, "development set")) as results:
                async for nbest, logprobs in results:
                    errors_of.add(nbest, logprobs)
            development = errors_of.nbest(f"--tune {tune_on}")
            weights = [tune(development)]
            _report(development, development.errors_at(*weights[0]), weights, "development set")

        errors_of = WordErrors()
        kept: list[tuple[NBestList, list[float]]] = []
        with replacing(output) if output else nullcontext(json_lines_out()) as out:
            async with aclosing(read(source, "rescoring")) as results:
                async for nbest, logprobs in results:
                    errors_of.add(nbest, logprobs)
                    if folds is None:
                        out.write(rescored_line(nbest, logprobs, weights[0], field) + "\n")
                    else:
                        kept.append((nbest, logprobs))
            errors: int | None = None
            if folds is not None:
                lists = errors_of.nbest("--folds")
                if len(kept) < folds:
                    raise InputError(f"--folds: {folds} parts of {len(kept)} lists")
                errors, weights = cross_validate(lists, folds)
                for row, (nbest, logprobs) in enumerate(kept):
                    out.write(rescored_line(nbest, logprobs, weights[row * folds // len(kept)], field) + "\n")
        if errors_of.complete:
            lists = errors_of.nbest("")
            _report(lists, lists.errors_at(*weights[0]) if errors is None else errors, weights, "word error rate")

    run_with_models(work, [model, *(also or [])], checkpoints)


def _report(nbest: NBest, errors: int, weights: list[tuple[float, float]], title: str) -> None:
    table = Table(title=title)
    for name in ("hypothesis", "errors", "WER"):
        table.add_column(name, justify="left" if name == "hypothesis" else "right")
    chosen = "; ".join(f"{weight:.2f}, {length_weight:.2f}" for weight, length_weight in weights)
    for name, count in (
        ("the recogniser's first", nbest.first_errors),
        (f"rescored (weights {chosen})", errors),
        ("the best of each list", nbest.oracle_errors),
    ):
        table.add_row(name, f"{count:,}", f"{nbest.rate(count):.2%}")
    Console(stderr=True).print(table)
