"""Train a model, continue a training, export it. Most options of `train` are the fields of dataclasses: see
training/config.py, training/data/corpus.py and models/config.py."""

import shlex
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from models.checkpoint.format import check_replaceable, load_checkpoint
from models.config import NumberType
from training.card import worse_than_counting
from training.commands.common import (
    INTERRUPTED,
    TensorBoard,
    Threads,
    console,
    errors,
    interruptible,
    processes,
    say,
    show_progress,
    use_machine,
)
from training.commands.options import absolute, tables, with_fields
from training.display import TrainingDisplay, clock, curves
from training.distributed import Group
from training.evaluation_figures import shown_at
from training.locks import exporting_alone, training_alone
from training.persistence import Report
from training.plots import PlotError, plot_run
from training.prepare import make_trainer, prepare_run
from training.recipe import Recipe, RecipeError, override, read_recipe
from training.run import Run, check_writable, command_line, explained, open_run
from training.tables import print_figures, print_plan
from training.tasks.table import TASKS, task_of

RunArgument = Annotated[Path, typer.Argument(help="The run directory, e.g. runs/book.")]
Out = Annotated[Path | None, typer.Option(help="The checkpoint to write; that of `train` by default.")]


@with_fields
def train(
    texts: Annotated[
        list[Path] | None, typer.Argument(help="Text files, or folders of them (*.txt, *.text, *.md).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The checkpoint to write, e.g. checkpoints/book.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file with everything below; options win over it.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that the recipe's paths start from.")] = None,
    run: Annotated[
        # torchrun takes the first name as one of its own options.
        Path | None, typer.Option("--run", "--run-dir", help="The run directory; runs/NAME by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete a run of the same name and start anew.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Begin with this checkpoint's weights and go on with other text (fine-tuning)."),
    ] = None,
    task: Annotated[str | None, typer.Option(help=f"What the model is for: {', '.join(TASKS)}.")] = None,
    tensorboard: TensorBoard = False,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda on a machine with a GPU.")] = "cpu",
    **fields: Any,
) -> None:
    """Train a model and export it. Options that are not set are chosen from the text.

    Ctrl-C stops after saving; `resume` continues as if nothing had happened, also after a crash.
    """
    asked = tables(fields)
    if texts:
        asked["corpus"]["train"] = absolute(texts)
    wanted = override(read_recipe(recipe) if recipe else Recipe(), asked | ({"task": task} if task else {}))
    out = out or (Path("checkpoints") / recipe.stem if recipe else None)
    if out is None:
        raise RecipeError("--out is missing: where the model goes, e.g. --out checkpoints/book")
    directory = run or Path("runs") / out.name
    use_machine(threads, device)
    check_replaceable(out)
    check_writable([out.parent, directory.parent])
    with processes(device) as group, training_alone(directory) if group.is_first else nullcontext():
        if group.is_first:
            command = "python -m training " + shlex.join(sys.argv[1:])
            start = load_checkpoint(start_from) if start_from else None
            with interruptible("the run was not made: repeat the command"):
                prepared = prepare_run(
                    directory, wanted, data or Path(), command, out, force, device, start, show_progress
                )
            print_plan(console, prepared)
        group.wait()
        _train_and_export(open_run(directory), out, group, resumed=False, tensorboard=tensorboard)


def resume(
    run: RunArgument,
    out: Out = None,
    tensorboard: TensorBoard = False,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; that of `train` by default.")] = None,
) -> None:
    """Continue an interrupted run from its last save, and export it."""
    opened = open_run(run)
    device = device or opened.config.device
    out = out or _out_of(opened)
    use_machine(threads, device)
    check_replaceable(out)
    check_writable([out.parent, run])
    with processes(device) as group, training_alone(run) if group.is_first else nullcontext():
        opened.check_files()
        _train_and_export(opened, out, group, resumed=True, tensorboard=tensorboard)


def export(
    run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/book; the run may still be going on.")],
    out: Out = None,
    storage: Annotated[
        NumberType | None,
        typer.Option(help="How the weights are stored: int8 is smallest; that of `train` by default."),
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="What the card says is the command that made it; that of `train` by default.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Write the best weights of a run as a checkpoint to serve, evaluated as they are stored."""
    opened = open_run(run)
    out = out or _out_of(opened)
    use_machine(threads)
    check_replaceable(out)
    check_writable([out.parent])
    opened.check_files()
    _export(opened, out, storage, command)


def _out_of(run: Run) -> Path:
    return Path(run.config.out or Path("checkpoints") / run.directory.resolve().name)


def _train_and_export(run: Run, out: Path, group: Group, resumed: bool, tensorboard: bool) -> None:
    trainer = make_trainer(run, group)
    if resumed:
        for note in trainer.load():
            say(note, errors)
        say(f"continuing {run.directory} after step {trainer.position.step}")
    task = trainer.task
    with (
        TrainingDisplay(console, run.config.training, task) as display,
        curves(run.directory, task, group, tensorboard) as write_curves,
    ):

        def report(report: Report) -> None:
            display.report(report)
            write_curves(report)

        with interruptible(f"the last save is kept. Continue with\n  {command_line('resume', run.directory)}"):
            position = trainer.run(report)
    if not group.is_first:
        return
    try:
        plot_run(run.directory, task.measure.label)
    except (PlotError, OSError) as error:  # a picture is not worth losing the export for
        say(f"no learning curve: {error}", errors)
    if position.stopped is None:
        say(
            f"interrupted after step {position.step}; everything is saved. Continue with\n"
            f"  {command_line('resume', run.directory)}",
            errors,
        )
        raise typer.Exit(INTERRUPTED)
    say(f"{position.stopped}, after {position.step} steps and {clock(position.seconds)}")
    _export(run, out, None, None)


def _export(run: Run, out: Path, storage: NumberType | None, command: str | None) -> None:
    task, again = task_of(run), command_line("export", run.directory)
    with (
        interruptible(f"the run is whole. Export it with\n  {again}"),
        exporting_alone(run.directory, lambda: say(f"waiting for another export of {run.directory}", errors)),
    ):
        try:
            about = task.export(run, out, storage, command, show_progress)
        except OSError as error:
            place = f"{out} or {tempfile.gettempdir()}"
            raise explained(error, place, f"The run is whole: mend that, then  {again}") from error
    print_figures(console, about["figures"], shown_at(about["level"], task.figures))
    if warning := worse_than_counting(about["figures"]):
        say(warning)
    console.print(f"wrote {out} ({about['weights_bytes'] / 1e6:.2f} MB of weights, {about['storage']})", soft_wrap=True)
    say("serve it:  make serve")
