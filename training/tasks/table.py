"""All tasks, by the name that recipes, runs and checkpoints give them."""

from training.run import DESCRIPTION, Run, RunError
from training.tasks import Task
from training.tasks.language_model import LanguageModelTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (LanguageModelTask,)}


def task_of(run: Run) -> type[Task]:
    """What a run is trained for. Raises `RunError` where run.json names no task."""
    if run.config.task not in TASKS:
        raise RunError(f"{run.directory / DESCRIPTION}: task: {run.config.task!r} is not one of {', '.join(TASKS)}")
    return TASKS[run.config.task]
