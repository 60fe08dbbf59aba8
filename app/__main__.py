"""`python -m app`: prepare the process before anything imports torch, then the command line."""

import sys

from models.process import prepare_process

prepare_process()

try:
    from app.cli import cli
except KeyboardInterrupt:  # while torch is being imported
    sys.exit(130)

cli()
