"""Checkpoints and saved states, altered at random: never a crash, a hang, or anything served that is not in order.

    python -m benchmarks.fuzz --cases 50000
    python -m benchmarks.fuzz --seed 1 --case 4711      one case again, with its traceback

- Files altered with their sums kept are never accepted.
- Files altered with their sums written anew, and configurations, are refused with a reason, or served with every id in
  range and every value finite. So are states.

Cases run in a process beside, so that a crash is seen and counted. Prints a table by kind of alteration (unforeseen:
refused, but by a fault that loading did not look for) and the first of the cases that went wrong; the exit status is 1
where there are any. Needs a system that can fork.
"""

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.fuzz.cases import KINDS, make_subjects, run_case

HANG_SECONDS = 30
"""A case takes milliseconds."""

SHOWN = 20
"""Cases that went wrong are listed up to here."""

OUTCOMES = ["refused", "served", "unforeseen", "wrong", "crashed", "hung"]


def main(
    cases: Annotated[int, typer.Option(help="How many.")] = 50_000,
    seed: Annotated[int, typer.Option(help="What is altered is a function of it and of the case's number.")] = 0,
    case: Annotated[int | None, typer.Option(help="Run this one alone, and show what is raised.")] = None,
) -> None:
    """Alter checkpoints and states; see what becomes of them."""
    torch.set_num_threads(1)  # a process that has made threads cannot be forked safely
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if case is not None:
            Console().print(*run_case(seed, case, make_subjects(Path(folder))))
            return
        counts: Counter[tuple[str, str]] = Counter()
        wrong: list[str] = []
        results = _results(seed, cases, Path(folder))
        for number, outcome, detail in track(results, "altering", total=cases, console=Console(stderr=True)):
            counts[KINDS[number % len(KINDS)], outcome] += 1
            if detail and len(wrong) < SHOWN:
                wrong.append(f"case {number} ({KINDS[number % len(KINDS)]}): {outcome}: {detail}")
    Console().print(_table(counts))
    Console().print(*wrong, f"seed {seed}, {time.perf_counter() - began:.0f} s", sep="\n", markup=False)
    if any(counts[kind, outcome] for kind in KINDS for outcome in OUTCOMES[2:]):
        raise typer.Exit(1)


def _table(counts: Counter[tuple[str, str]]) -> Table:
    table = Table("altered", "cases", *OUTCOMES)
    for kind in KINDS:
        table.add_row(kind, *_cells([counts[kind, outcome] for outcome in OUTCOMES]))
    table.add_section()
    table.add_row("all", *_cells([sum(counts[kind, outcome] for kind in KINDS) for outcome in OUTCOMES]))
    return table


def _cells(counts: list[int]) -> list[str]:
    return [f"{count:,}" for count in (sum(counts), *counts)]


def _results(seed: int, cases: int, folder: Path) -> Iterator[tuple[int, str, str]]:
    """(number, outcome, what went wrong) of every case, in order; a process that dies is followed by another."""
    number = 0
    while number < cases:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(seed, range(number, cases), folder / str(number), writer)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                outcome, _, detail = line.rstrip("\n").partition("\t")
                yield number, outcome, detail
                number += 1
        ended_by = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended_by:
            outcome = "hung" if ended_by == signal.SIGALRM else "crashed"
            yield number, outcome, f"signal {ended_by}"
            number += 1


def _work(seed: int, numbers: range, folder: Path, writer: int) -> None:
    """In a process of its own: a line for each case. It does not return."""
    subjects = make_subjects(folder)
    for number in numbers:
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)  # whose signal ends the process
        try:
            outcome: str = run_case(seed, number, subjects)[1]
            detail = "see --case" if outcome == "unforeseen" else ""
        except BaseException as error:
            outcome, detail = "wrong", f"{type(error).__name__}: {error}"
        line = f"{outcome}\t{ascii(detail[:300])[1:-1]}\n"
        os.write(writer, line.encode())
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    typer.run(main)
