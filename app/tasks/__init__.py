"""The tasks of the service: each file holds the bodies, the limits and the answer of one. No HTTP.

A new task is a file here and a line in `TASKS`.
"""

from typing import Any

from app.tasks import generate, next, rescore, score  # noqa: A004 — named after the route
from app.tasks.task import Task

TASKS: tuple[Task[Any, Any], ...] = (generate.TASK, score.TASK, next.TASK, rescore.TASK)
