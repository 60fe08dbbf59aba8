"""The command line: its commands (training/commands/), and how errors become messages and exit statuses."""

from collections.abc import Callable

import typer

from models.checkpoint.format import CheckpointError
from models.documents.text import CorpusError
from training.commands import evaluate, studies, train
from training.commands.common import errors, interruptible, say
from training.plots import PlotError
from training.recipe import RecipeError
from training.run import RunError
from training.trainer import TrainingError

app = typer.Typer(
    name="training",
    help="Train small recurrent language models on your own text. Begin with:  train book.txt --out checkpoints/book",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "resume": train.resume,
    "export": train.export,
    "evaluate": evaluate.evaluate,
    "ngram": evaluate.ngram,
    "speller": evaluate.speller,
    "stats": studies.stats,
    "gradient-flow": studies.gradient_flow,
    "compare": studies.compare,
    "average": studies.average,
    "lr-range": studies.lr_range,
    "plot": studies.plot,
}
"""In the order of the help."""

for _name, _command in COMMANDS.items():
    app.command(_name)(interruptible()(_command))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    try:
        app(arguments, prog_name="python -m training")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except (CorpusError, RecipeError, RunError, CheckpointError) as error:
        return _fail(str(error), 2)
    except ValueError as error:  # NetworkConfig's and TrainingConfig's, which name the field
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except (TrainingError, PlotError, MemoryError) as error:
        return _fail(str(error) or type(error).__name__, 1)
    return 0


def _fail(message: str, status: int) -> int:
    errors.print("[bold red]error:[/] ", end="")
    say(message, errors)
    return status
