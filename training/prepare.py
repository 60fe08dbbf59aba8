"""Makes a run directory from a recipe, and the trainer of a run."""

from datetime import UTC, datetime
from pathlib import Path

from models.checkpoint.format import Checkpoint
from models.files import replacing_directory
from training.distributed import ALONE, Group
from training.progress import Progress, no_progress
from training.recipe import Recipe, RecipeError
from training.run import (
    DESCRIPTION,
    SPLITS,
    Run,
    RunConfig,
    RunError,
    command_line,
    explained,
    hardware,
    open_run,
    write_config,
)
from training.tasks.table import TASKS, task_of
from training.trainer import Trainer


def prepare_run(
    directory: Path,
    recipe: Recipe,
    data: Path,
    command: str,
    out: Path | None = None,
    force: bool = False,
    device: str = "cpu",
    start: Checkpoint | None = None,
    progress: Progress = no_progress,
) -> Run:
    """Reads the text, chooses what was not asked for, and writes a run directory, which appears whole or not at all.

    data: the folder that the recipe's paths start from. device: where it is trained, and `resume` goes on. start: the
    checkpoint whose weights it begins with; the run takes over its network, level and boundary, and its vocabulary,
    unless the recipe asks for a size. progress: shows how much of the text is read. Raises `RunError` when the
    directory exists and not `force`, or is not a run; `CorpusError` or `ValueError` on what cannot be trained,
    `OSError` where a file cannot be written.
    """
    _check_free(directory, force)
    if recipe.task not in TASKS:
        raise RecipeError(f"task: {recipe.task!r} is not one of {', '.join(TASKS)}")
    if start is not None and start.task != recipe.task:
        raise RecipeError(f"start_from: {start.name} is made for {start.task}, not for {recipe.task}")
    try:
        with replacing_directory(directory) as temporary:
            prepared = TASKS[recipe.task].prepare(recipe, data, temporary, start, progress)
            config = RunConfig(
                network=prepared.network,
                corpus=prepared.corpus,
                training=prepared.training,
                sources={
                    SPLITS[name]: [_shown(file, data) for file in files] for name, files in prepared.files.items()
                },
                description=recipe.sources.description,
                licence=recipe.sources.licence,
                command=command,
                out=str(out) if out else None,
                storage=recipe.export.storage,
                hardware=hardware(device),
                created=datetime.now(UTC).date().isoformat(),
                device=device,
                start=start.name if start else None,
                task=recipe.task,
            )
            write_config(config, temporary)
    except OSError as error:
        raise explained(error, directory, "The run was not made: mend that and repeat the command") from error
    return open_run(directory)


def make_trainer(run: Run, group: Group = ALONE) -> Trainer:
    """The trainer of a run, before its first step; `load` it to continue."""
    task = task_of(run).open(run, group)
    return Trainer(task, run.config.training, run.directory, group)


def _check_free(directory: Path, force: bool) -> None:
    if directory.exists() and not force:
        raise RunError(
            f"{directory}: this run exists already. Continue it:  {command_line('resume', directory)}\n"
            "or start it anew with --force (the old run is deleted), or give another --run"
        )
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not is_free and not (directory / DESCRIPTION).is_file():
        raise RunError(f"{directory}: exists and is not a run; --force would delete it: name another place with --run")


def _shown(file: Path, data: Path) -> str:
    """A file by its name below the data folder, where it is below it."""
    try:
        return file.relative_to(data).as_posix()
    except ValueError:
        return file.name if file.is_absolute() else file.as_posix()
