"""All tasks, by the name that recipes, runs and checkpoints give them."""

from training.tasks import Task
from training.tasks.language_model import LanguageModelTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (LanguageModelTask,)}
