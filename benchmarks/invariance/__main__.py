"""Does an answer depend on anything but the request, the model and the number type? By equality, on real servers.

    python -m benchmarks.invariance [--shape char,default,awd] [--dtype int8,bfloat16,float32]

Prints a table of what was compared; exit status 1 when anything differs, with the first difference of every axis. Two
cores take about half an hour for everything, a minute or two for `--shape default --dtype int8`: most of it goes into
requests that are answered alone, 64 of 300 tokens.
"""

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks.invariance.answers import Finding
from benchmarks.invariance.axes import examine
from benchmarks.invariance.subject import Subject
from benchmarks.report import table
from benchmarks.shapes import SHAPES, TINY_SHAPES, write_checkpoint
from models.config import NUMBER_TYPES

ALL_SHAPES = ",".join(each.name for each in SHAPES)
ALL_TYPES = ",".join(reversed(NUMBER_TYPES))


def main(
    shape: Annotated[str, typer.Option(help="Shapes, comma-separated.")] = ALL_SHAPES,
    dtype: Annotated[str, typer.Option(help="Number types, comma-separated.")] = ALL_TYPES,
    seeds: Annotated[int, typer.Option(help="Requests of each network in each number type.", min=16)] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.", min=2)] = 300,
) -> None:
    """Compare answers given alone and in company, streamed and not, on one thread and two, …; see the module."""
    known = [each.name for each in (*SHAPES, *TINY_SHAPES)]
    shapes, dtypes = names("--shape", shape, known), names("--dtype", dtype, list(NUMBER_TYPES))
    findings: list[Finding] = []
    whole = False
    try:
        asyncio.run(_examine_all(shapes, dtypes, seeds, tokens, findings))
        whole = True
    finally:  # a run that breaks off has compared something too
        print(markdown(findings, whole))  # noqa: T201
    raise typer.Exit(any(finding.difference for finding in findings))


def names(option: str, value: str, known: list[str]) -> list[str]:
    """Comma-separated names, each of them known."""
    if unknown := set(value.split(",")) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}", param_hint=option)
    return value.split(",")


async def _examine_all(shapes: list[str], dtypes: list[str], seeds: int, tokens: int, findings: list[Finding]) -> None:
    """One network in one number type after another; `findings` grows."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    by_name = {each.name: each for each in (*SHAPES, *TINY_SHAPES)}
    with (
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        tempfile.TemporaryDirectory(prefix="carousel-invariance-") as folder,
    ):
        whole = progress.add_task("networks in number types", total=len(shapes) * len(dtypes))
        for name in shapes:
            write_checkpoint(by_name[name], Path(folder) / name)
            for dtype in dtypes:
                subject = Subject(name, dtype, Path(folder) / name / name, seeds, tokens, progress)
                async for found in examine(subject):
                    findings += found
                progress.advance(whole)


def markdown(findings: list[Finding], whole: bool = True) -> str:
    """A row for each comparison, and below what differs. whole: whether all comparisons were made."""
    titles = ["axis", "network", "backend", "compared", "equal"]
    rows = [[f.axis, f.shape, f.backend, f.compared, "no" if f.difference else "yes"] for f in findings]
    notes = [f"- {f.axis}, {f.shape}, {f.backend}: {f.difference}" for f in findings if f.difference]
    end = "Not all was compared: the run broke off." if not whole else "" if notes else "No difference."
    return "\n".join([table(titles, rows), "", *notes, *([end] if end else [])])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server is left behind
    typer.run(main)
