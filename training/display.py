"""What the terminal shows of a run: a live line where there is a terminal, plain lines where there is none."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.decoding.completion import GenerationParams
from models.decoding.reference import generate
from models.decoding.sampling import SamplingParams
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from training.config import TrainingConfig
from training.distributed import Group
from training.run import RunError
from training.trainer import Report

PLAIN_EVERY = 50
"""Steps between two plain lines."""


class TrainingDisplay:
    """Takes a run's reports, and shows them."""

    def __init__(self, console: Console, config: TrainingConfig) -> None:
        self._console = console
        self._config = config
        self._loss: float | None = None
        self._speed: float | None = None
        self._progress = Progress(
            TextColumn("step {task.fields[step]}/{task.fields[steps]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left {task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=1.0, step=0, steps=config.steps, figures="", left="-:--")

    def __enter__(self) -> "TrainingDisplay":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def report(self, report: Report) -> None:
        """Show a step, or a validation."""
        if report.valid_nats is not None:
            self._print(
                f"step {report.step:>6}  validation {report.valid_nats:.4f} nats per token, "
                f"perplexity {perplexity_text(report.valid_nats)}  ({clock(report.seconds)})"
            )
            return
        assert report.loss_nats is not None
        assert report.tokens_per_second is not None
        self._loss = _average(self._loss, report.loss_nats)
        self._speed = _average(self._speed, report.tokens_per_second)
        figures = f"loss {self._loss:.3f}  perplexity {perplexity_text(self._loss)}  {self._speed:,.0f} tokens/s"
        left = self._seconds_left(report)
        if self._console.is_terminal:
            self._progress.update(
                self._task, completed=report.progress, step=report.step, figures=figures, left=clock(left)
            )
        elif report.step % PLAIN_EVERY == 0 or report.step == 1:
            self._print(f"step {report.step:>6}/{self._config.steps}  {figures}  {clock(left)} left")

    def show(self, line: str) -> None:
        """A line between the others."""
        self._print(line)

    def _seconds_left(self, report: Report) -> float:
        """By the speed of the last steps, or by the clock where the minutes are limited."""
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


SAMPLE_TOKENS = {"char": 80, "bpe": 30, "word": 20, "split": 20}


def sample_line(model: LanguageModel, tokenizer: Tokenizer, step: int) -> str:
    """What the network would write by now, on one line. It takes nothing from torch's generator."""
    params = GenerationParams(
        max_tokens=SAMPLE_TOKENS[tokenizer.level], seed=step, ignore_eos=True, sampling=SamplingParams(temperature=0.8)
    )
    text, _ = generate(model, tokenizer, "", params)
    return "             " + " ".join(text.split())


@contextmanager
def curves(directory: Path, group: Group, wanted: bool) -> Iterator[Callable[[Report], None]]:
    """Takes reports and writes them where TensorBoard looks. Raises `RunError` when it is not installed."""
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
                "nats/training": report.loss_nats,
                "nats/validation": report.valid_nats,
                "learning rate": report.learning_rate,
                "gradient norm": report.gradient_norm,
                "tokens per second": report.tokens_per_second,
            }
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(name, value, report.step)

        yield write


@contextmanager
def counting(console: Console, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that the yielded function moves on by so many; nothing where there is no terminal."""
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def stepping(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that tells how many steps are done, and of how many; nothing where there is no terminal."""
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, steps: progress.update(task, completed=done, total=steps)
