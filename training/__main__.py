"""`python -m training`."""

import sys

from models.process import prepare_process

prepare_process()

from training.cli import main  # noqa: E402  (torch must not be imported before the process is prepared)

if __name__ == "__main__":
    sys.exit(main())
