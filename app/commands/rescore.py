"""`rescore`: n-best lists of a recogniser, reordered with the help of a language model."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.answers.rescore import hypothesis_logprobs, reordered
from app.bulk import InputError, NBestList, count_lines, in_order, read_nbest, to_json
from app.commands.shared import CheckpointsOption, ModelOption, fail, progress_bar, run_with_model, writing
from app.limits import at_most
from app.registry import ServedModel
from app.rescoring import NBest, cross_validate, nbest_lists, tune, word_errors
from app.settings import Settings


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
    checkpoints: CheckpointsOption = None,
) -> None:
    """Reorder n-best lists by score + weight * logprob + length-weight * words.

    JSONL: {"hyps": [{"text": …, "score": …}, …], "ref": …} a line; lists of lines have an empty line between them.
    Where there are references, a table of word error rates follows on standard error.
    """
    for path in (source, tune_on):
        if path is not None and not path.is_file():
            fail(f"{path}: no such file", code=2)
    if tune_on is not None and folds is not None:
        fail("--tune and --folds both choose the weights: give one of them", code=2)
    if source is not None and output is not None and output.resolve() == source.resolve():
        fail(f"{output}: would replace the lists; write somewhere else", code=2)

    async def work(served: ServedModel, settings: Settings) -> None:
        async def logprobs_of(lists: list[NBestList]) -> list[list[float]]:
            for one in lists:
                at_most("hypotheses", len(one.texts), settings.max_texts, " hypotheses of one utterance")
            texts = [text for one in lists for text in one.texts]
            found = iter(await hypothesis_logprobs(texts, bos, eos, lowercase, served, settings))
            return [[next(found) for _ in one.texts] for one in lists]

        async def read(path: Path | None, task_name: str) -> "Scored":
            scored = Scored()
            with ExitStack() as stack:
                file = stack.enter_context(path.open("rb")) if path else sys.stdin.buffer
                progress = stack.enter_context(progress_bar())
                task = progress.add_task(task_name, total=count_lines(path) if path else None)
                batches = read_nbest(file.fileno(), field, reference_field)
                async for lists, logprobs in in_order(batches, logprobs_of):
                    scored.add(lists, logprobs)
                    progress.advance(task, len(lists))
            return scored

        weights = [(weight, length_weight)]
        if tune_on is not None:
            development = (await read(tune_on, "development set")).nbest(f"--tune {tune_on}")
            weights = [tune(development)]
            _report(development, development.errors_at(*weights[0]), weights, "development set")
        scored = await read(source, "rescoring")
        errors: int | None = None
        if folds is not None:
            nbest = scored.nbest("--folds")
            if len(scored.lists) < folds:
                raise InputError(f"--folds: {folds} parts of {len(scored.lists)} lists")
            errors, weights = cross_validate(nbest, folds)
        with writing(output) if output else ExitStack() as out:
            for line in scored.reordered(weights, field):
                (out if output else sys.stdout).write(line + "\n")  # type: ignore[union-attr]
        if scored.has_references:
            nbest = scored.nbest("")
            _report(nbest, nbest.errors_at(*weights[0]) if errors is None else errors, weights, "word error rate")

    run_with_model(work, model, checkpoints)


class Scored:
    """N-best lists and what the model says of them."""

    def __init__(self) -> None:
        self.lists: list[NBestList] = []
        self.logprobs: list[list[float]] = []

    def add(self, lists: list[NBestList], logprobs: list[list[float]]) -> None:
        self.lists += lists
        self.logprobs += logprobs

    @property
    def has_references(self) -> bool:
        return bool(self.lists) and all(one.reference is not None for one in self.lists)

    def nbest(self, wanted_by: str) -> NBest:
        """Raises `InputError` where a reference is missing."""
        if not self.has_references:
            raise InputError(
                f"{wanted_by}: every list needs what was really said; name its field with --reference-field"
            )
        references = [one.reference or "" for one in self.lists]
        return nbest_lists(
            [one.scores for one in self.lists],
            self.logprobs,
            [[len(text.split()) for text in one.texts] for one in self.lists],
            [
                [word_errors(reference, text) for text in one.texts]
                for one, reference in zip(self.lists, references, strict=True)
            ],
            [len(reference.split()) for reference in references],
        )

    def reordered(self, weights: list[tuple[float, float]], field: str) -> Iterator[str]:
        """The lists as they came, best hypothesis first. weights: of each fold."""
        for row, (one, logprobs) in enumerate(zip(self.lists, self.logprobs, strict=True)):
            hypotheses = reordered(one.texts, one.scores, logprobs, *weights[row * len(weights) // len(self.lists)])
            if one.record is None:
                yield "".join(f"{each.text}\t{each.total:.6g}\n" for each in hypotheses)
            else:
                yield to_json(one.record | {field: [each.model_dump() for each in hypotheses]})


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
