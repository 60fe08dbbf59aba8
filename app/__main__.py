"""`python -m app`: prepare the process before anything imports torch, then the command line."""

from models.process import prepare_process

prepare_process()

from app.cli import cli  # noqa: E402

cli()
