"""The command `carousel`: the commands of `python -m app` and of `python -m training`, by the same functions.

A command's module is imported when it is called: `carousel next` imports neither training nor the web framework. The
help shows what the sources say of the others, unimported.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer

from carousel.included import use_included_models
from carousel.packages import ROOT
from models.process import prepare_process

SERVING = {
    "serve": "app.commands.serve:serve",
    "generate": "app.commands.ask:generate",
    "next": "app.commands.ask:next_",
    "score": "app.commands.score:score",
    "surprisal": "app.commands.surprisal:surprisal",
    "rescore": "app.commands.rescore:rescore",
    "key": "app.commands.serve:make_key",
    "settings": "app.commands.serve:show_settings",
    "reference": "app.commands.serve:show_reference",
    "metrics": "app.commands.serve:show_metrics",
}
"""Where the function of a command is. A test compares this table, and the next, with the packages' own."""

TRAINING = {
    "train": "training.commands.train:train",
    "resume": "training.commands.train:resume",
    "export": "training.commands.train:export",
    "evaluate": "training.commands.evaluate:evaluate",
    "ngram": "training.commands.evaluate:ngram",
    "speller": "training.commands.evaluate:speller",
    "stats": "training.commands.studies:stats",
    "gradient-flow": "training.commands.studies:gradient_flow",
    "compare": "training.commands.studies:compare",
    "average": "training.commands.studies:average",
    "lr-range": "training.commands.studies:lr_range",
    "plot": "training.commands.studies:plot",
}


def main() -> None:
    """Run the command line of this process."""
    prepare_process()
    use_included_models()
    called = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if called in TRAINING:
        training: Any = import_module("training.cli")
        sys.exit(training.main(sys.argv[1:]))
    command_line(called)()


def command_line(called: str | None = None) -> typer.Typer:
    """All commands; those that are not called cannot be run, but have their line in the help."""
    cli = typer.Typer(
        help="Small recurrent language models: use them here, serve them over HTTP, train them on your own text.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    cli.callback()(_options)
    for panel, commands in (("Use and serve", SERVING), ("Train and study", TRAINING)):
        for name, place in commands.items():
            function = _imported(place) if name == called else _not_called
            cli.command(name, help=summary(place) if name != called else None, rich_help_panel=panel)(function)
    return cli


def summary(place: str) -> str:
    """The first line of a function's docstring, read from the source. place: `module:function`."""
    module, name = place.split(":")
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return (ast.get_docstring(function) or "").partition("\n")[0]


def _imported(place: str) -> Callable[..., None]:
    module, name = place.split(":")
    function: Callable[..., None] = getattr(import_module(module), name)
    return function


def _not_called() -> None:
    raise AssertionError("a command that is called is imported")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version("carousel-lm"))  # noqa: T201
        raise typer.Exit


def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
