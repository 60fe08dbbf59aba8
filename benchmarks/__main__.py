"""`python -m benchmarks`: see benchmarks/cli.py."""

import typer

from benchmarks.cli import main

typer.run(main)
