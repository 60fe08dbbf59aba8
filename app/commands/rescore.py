"""`rescore`: n-best lists of a recogniser, reordered with the help of a language model."""

import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.commands.shared import (
    CheckpointsOption,
    ModelOption,
    check_paths,
    fail,
    progress_bar,
    run_with_models,
    writing,
)
from app.files.bulk import InputError, NBestList, count_lines, in_order, read_nbest, to_json
from app.files.rescoring import NBest, cross_validate, nbest_lists, tune, word_errors
from app.limits import at_most
from app.registry import ServedModel
from app.settings import Settings
from app.tasks.rescore import hypothesis_logprobs, reordered


def rescore(
    source: Annotated[
        Path | None, typer.Argument(help="JSONL, or lines of text, tab, score; not given: standard input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there; not given: standard output.")
    ] = None,
    weight: Annotated[float, typer.Option(help="Of the model's log-probability.")] = 0.5,
    length_weight: Annotated[float, typer.Option(help="Of the number of words.")] = 0.0,
    tune_on: Annotated[
        Path | None, typer.Option("--tune", help="Lists with references: choose both weights for fewest errors there.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Tune on the lists themselves, each part with weights of the others.")
    ] = None,
    field: Annotated[str, typer.Option(help="Where a JSON object has its hypotheses.")] = "hyps",
    reference_field: Annotated[str, typer.Option(help="Where it has what was really said.")] = "ref",
    lowercase: Annotated[bool, typer.Option("--lowercase", help="The model reads the texts in lower case.")] = False,
    bos: Annotated[bool, typer.Option(help="A hypothesis starts a sentence.")] = True,
    eos: Annotated[bool, typer.Option(help="Its end is predicted, and counts.")] = True,
    model: ModelOption = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Another checkpoint: the models' mean log-probability counts. Repeatable.")
    ] = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """Reorder n-best lists by score + weight * logprob + length-weight * words.

    JSONL: {"hyps": [{"text": …, "score": …}, …], "ref": …} a line; lists of lines have an empty line between them.
    Where there are references, a table of word error rates follows on standard error.
    """
    check_paths([source, tune_on], output)
    if tune_on is not None and folds is not None:
        fail("--tune and --folds both choose the weights: give one of them", code=2)

    async def work(models: list[ServedModel], settings: Settings) -> None:
        async def logprobs_of(lists: list[NBestList]) -> list[list[float]]:
            for one in lists:
                at_most("hypotheses", len(one.texts), settings.max_texts, " hypotheses of one utterance")
            texts = [text for one in lists for text in one.texts]
            by_model = [await hypothesis_logprobs(texts, bos, eos, lowercase, served, settings) for served in models]
            found = (sum(logprobs) / len(models) for logprobs in zip(*by_model, strict=True))
            return [[next(found) for _ in one.texts] for one in lists]

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
            figures = Figures()
            async with aclosing(read(tune_on, "development set")) as results:
                async for one, logprobs in results:
                    figures.add(one, logprobs)
            development = figures.nbest(f"--tune {tune_on}")
            weights = [tune(development)]
            _report(development, development.errors_at(*weights[0]), weights, "development set")

        figures = Figures()
        kept: list[tuple[NBestList, list[float]]] = []
        with writing(output) if output else nullcontext(sys.stdout) as out:
            async with aclosing(read(source, "rescoring")) as results:
                async for one, logprobs in results:
                    figures.add(one, logprobs)
                    if folds is None:
                        out.write(_line(one, logprobs, weights[0], field) + "\n")
                    else:
                        kept.append((one, logprobs))
            errors: int | None = None
            if folds is not None:
                nbest = figures.nbest("--folds")
                if len(kept) < folds:
                    raise InputError(f"--folds: {folds} parts of {len(kept)} lists")
                errors, weights = cross_validate(nbest, folds)
                for row, (one, logprobs) in enumerate(kept):
                    out.write(_line(one, logprobs, weights[row * folds // len(kept)], field) + "\n")
        if figures.complete:
            nbest = figures.nbest("")
            _report(nbest, nbest.errors_at(*weights[0]) if errors is None else errors, weights, "word error rate")

    run_with_models(work, [model, *(also or [])], checkpoints)


class Figures:
    """What word error rates are made of: a few numbers of each hypothesis, not its text."""

    def __init__(self) -> None:
        self._rows: list[tuple[list[float], list[float], list[int], list[int], int]] = []
        self._missing = False

    def add(self, one: NBestList, logprobs: list[float]) -> None:
        if one.reference is None:
            self._missing = True
            return
        words = [len(text.split()) for text in one.texts]
        errors = [word_errors(one.reference, text) for text in one.texts]
        self._rows.append((one.scores, logprobs, words, errors, len(one.reference.split())))

    @property
    def complete(self) -> bool:
        """Whether there are lists, and all have references."""
        return bool(self._rows) and not self._missing

    def nbest(self, wanted_by: str) -> NBest:
        """Raises `InputError` where a reference is missing."""
        if not self.complete:
            raise InputError(
                f"{wanted_by}: every list needs what was really said; name its field with --reference-field"
            )
        scores, logprobs, words, errors, lengths = zip(*self._rows, strict=True)
        return nbest_lists(scores, logprobs, words, errors, lengths)


def _line(one: NBestList, logprobs: list[float], weights: tuple[float, float], field: str) -> str:
    """A list as it came, best hypothesis first; hypotheses of JSON keep their other fields."""
    hypotheses = reordered(one.texts, one.scores, logprobs, *weights)
    if one.record is None:
        return "".join(f"{each.text}\t{each.total:.6g}\n" for each in hypotheses)
    found = one.record[field]
    return to_json(one.record | {field: [found[each.index] | each.model_dump() for each in hypotheses]})


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
