"""What the terminal shows of a run: a live line where there is a terminal, plain lines where there is none."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from training.config import TrainingConfig
from training.distributed import Group
from training.persistence import Report
from training.progress import Advance
from training.run import RunError
from training.tasks import Task

PLAIN_EVERY = 50
"""Steps between two plain lines."""


class TrainingDisplay:
    """Takes a run's reports, and shows them."""

    def __init__(self, console: Console, config: TrainingConfig, task: Task) -> None:
        self._console = console
        self._task = task
        self._config = config
        self._loss: float | None = None
        self._speed: float | None = None
        self._bars = Bars(
            TextColumn("step {task.fields[step]}/{task.fields[steps]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left {task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._bar = self._bars.add_task("", total=1.0, step=0, steps=config.steps, figures="", left="-:--")

    def __enter__(self) -> "TrainingDisplay":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def report(self, report: Report) -> None:
        """Shows a step, or a validation and a sample of what the network can do."""
        if report.validation is not None:
            found = f"{report.validation:.4f} {self._task.measure.label}"
            perplexity = self._perplexity(self._task.measure.unit, report.validation, ", ")
            self._print(f"step {report.step:>6}  validation {found}{perplexity}  ({clock(report.seconds)})")
            if sample := self._task.sample(report.step):
                self._print(f"{'':13}{sample}")
            return
        assert report.loss is not None
        assert report.tokens_per_second is not None
        self._loss = _average(self._loss, report.loss)
        self._speed = _average(self._speed, report.tokens_per_second)
        perplexity = self._perplexity(self._task.loss_unit, self._loss, "  ")
        figures = f"loss {self._loss:.3f}{perplexity}  {self._speed:,.0f} tokens/s"
        left = self._seconds_left(report)
        if self._console.is_terminal:
            self._bars.update(
                self._bar, completed=report.share_done, step=report.step, figures=figures, left=clock(left)
            )
        elif report.step % PLAIN_EVERY == 0 or report.step == 1:
            self._print(f"step {report.step:>6}/{self._config.steps}  {figures}  {clock(left)} left")

    def _perplexity(self, unit: str, value: float, separator: str) -> str:
        """The perplexity, where the value is in nats."""
        return f"{separator}perplexity {perplexity_text(value)}" if unit == "nats" else ""

    def _seconds_left(self, report: Report) -> float:
        """Estimated from the speed of the last steps, and from the clock where the minutes are limited."""
        assert self._speed
        per_step = self._config.batch_size * self._config.bptt_length / self._speed
        left = (self._config.steps - report.step) * per_step
        if self._config.max_minutes:
            left = min(left, 60 * self._config.max_minutes - report.seconds)
        return max(0.0, left)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def _average(old: float | None, new: float) -> float:
    return new if old is None else 0.95 * old + 0.05 * new


def perplexity_text(nats: float) -> str:
    return f"{math.exp(nats):,.2f}" if nats < 30 else "over 1e13"


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def curves(directory: Path, task: Task, group: Group, wanted: bool) -> Iterator[Callable[[Report], None]]:
    """Writes reports for TensorBoard, if that is `wanted`. Raises `RunError` when it is not installed."""
    if not wanted or not group.is_first:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunError("--tensorboard needs TensorBoard: pip install 'carousel-lm[train]'") from None
    with SummaryWriter(str(directory / "tensorboard")) as writer:

        def write(report: Report) -> None:
            values = {
                f"{task.loss_unit}/training": report.loss,
                f"{task.measure.unit}/validation": report.validation,
                "learning rate": report.learning_rate,
                "gradient norm": report.gradient_norm,
                "tokens per second": report.tokens_per_second,
            }
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(name, value, report.step)

        yield write


@contextmanager
def progress(console: Console, name: str, total: int | None) -> Iterator[Advance]:
    """A `training.progress.Progress` on a terminal: a bar; nothing where there is no terminal."""
    columns = (TextColumn(name), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=total)

        def advance(count: int, total: int | None = None) -> None:
            bars.update(task, advance=count, total=total)

        yield advance
