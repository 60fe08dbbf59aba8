"""What commands have in common: options, settings, a model to run, and how what goes wrong becomes a message."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.errors import ServiceError, validation_error
from app.files.bulk import InputError
from app.metrics import Metrics
from app.registry import ServedModel, StartupError, load_model
from app.settings import Settings

ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Name of a checkpoint; not given: the default.")]
CheckpointsOption = Annotated[
    Path | None, typer.Option("--checkpoints", help="Folder of checkpoints (CAROUSEL_CHECKPOINTS).")
]


def make_settings(**given: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"setting CAROUSEL_{str(first['loc'][0]).upper()}: {first['msg']} (got {first['input']!r})", code=2)


def make_body(kind: type[Any], **values: Any) -> Any:
    """A request body of command-line values; wrong ones end the command."""
    try:
        return kind(**values)
    except ValidationError as error:
        fail(validation_error([dict(e) for e in error.errors()]).message, code=2)


def run_with_model(
    work: Callable[[ServedModel, Settings], Coroutine[Any, Any, None]], model: str | None, checkpoints: Path | None
) -> None:
    """Load one model, run a coroutine with it, and turn what goes wrong into a message."""
    run_with_models(lambda served, settings: work(served[0], settings), [model], checkpoints)


def run_with_models(
    work: Callable[[list[ServedModel], Settings], Coroutine[Any, Any, None]],
    models: Sequence[str | None],
    checkpoints: Path | None,
) -> None:
    """The same with several."""
    # The limits protect a server from its clients; here is only one.
    settings = make_settings(checkpoints=checkpoints).model_copy(
        update={"timeout_seconds": 1e9, "max_reported": 10**12}
    )

    async def main() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own waits for a read to return
        metrics = Metrics()
        served = [load_model(settings, model, metrics) for model in models]
        with ExitStack() as stack:
            for one in served:
                one.engine.start()
                stack.callback(one.engine.stop)
            await work(served, settings)

    try:
        asyncio.run(main())
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except (StartupError, ServiceError, InputError, OSError) as error:
        fail(str(error), code=1 if isinstance(error, StartupError | OSError) else 2)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(message: str, code: int = 1) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def check_paths(sources: Sequence[Path | None], output: Path | None) -> None:
    """End the command when a file is not there, or the output is one of them or cannot be written."""
    for source in filter(None, sources):
        if not source.exists() or source.is_dir():
            fail(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}", code=2)
        if output is not None and output.resolve() == source.resolve():
            fail(f"{output}: would replace what is read; write somewhere else", code=2)
    if output is not None and output.exists() and not output.is_file():
        fail(f"{output}: is no file that could be replaced", code=2)
    if output is not None and not os.access(output.absolute().parent, os.W_OK):
        fail(f"{output.absolute().parent}: there is no such folder, or it cannot be written to", code=2)


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A file that is there whole or, when something goes wrong on the way, as it was before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def progress_bar() -> Progress:
    """On standard error, where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
