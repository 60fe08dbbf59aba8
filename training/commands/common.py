"""What several commands share: the terminal, options of the same name, and how they use the machine."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from training.display import progress
from training.distributed import Group, join_group
from training.recipe import RecipeError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

console = Console(width=None if sys.stdout.isatty() else 120)
"""Results. A file or a pipe gets tables of 120 columns."""
errors = Console(stderr=True)

show_progress = partial(progress, console)
show_progress_apart = partial(progress, errors)
"""For commands whose results may go to a pipe."""

Files = Annotated[list[Path], typer.Argument(help="Text files, or folders of them.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard too.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Pattern of files to leave out, such as held-out ones.")]
Unwrap = Annotated[bool, typer.Option("--unwrap", help="Join lines wrapped at a fixed width.")]


def say(text: str, to: Console = console) -> None:
    """Prints a line as it is."""
    to.print(text, highlight=False, markup=False, soft_wrap=True)


def say_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def use_machine(threads: int | None, device: str = "cpu") -> None:
    """Sets the number of threads. Raises `RecipeError` when the device does not exist."""
    torch.set_flush_denormal(True)  # tiny gradients would otherwise cost a hundred times as much
    if threads:
        torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(f"--device {device}: this torch sees no GPU; leave it out to train on the processor")


@contextmanager
def interruptible(advice: str = "") -> Iterator[None]:
    """Ends the command with a message and status 130 where Ctrl-C comes. advice: what to do then."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted{advice and '; '}{advice}", errors)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def processes(device: str) -> Iterator[Group]:
    """The processes that `torchrun` started, or this process alone. Only the first one prints."""
    group = join_group(device)
    console.quiet = errors.quiet = not group.is_first
    try:
        yield group
    finally:
        group.leave()
