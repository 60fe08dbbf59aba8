"""`python -m app`: the commands, put together."""

import typer

from app.commands.ask import generate, next_
from app.commands.rescore import rescore
from app.commands.score import score
from app.commands.serve import make_key, serve, show_metrics, show_reference, show_settings
from app.commands.surprisal import surprisal

cli = typer.Typer(
    help="Serve recurrent language models over HTTP, or use them from the terminal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli.command()(serve)
cli.command()(generate)
cli.command("next")(next_)
cli.command()(score)
cli.command()(surprisal)
cli.command()(rescore)
cli.command("key")(make_key)
cli.command("settings")(show_settings)
cli.command("metrics")(show_metrics)
cli.command("reference")(show_reference)
