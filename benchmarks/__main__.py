"""`python -m benchmarks`: see benchmarks/cli.py."""

import signal

import typer

from benchmarks.cli import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server is left behind
typer.run(main)
