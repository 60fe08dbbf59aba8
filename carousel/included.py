"""Which models a name means.

- `carousel.load(name)`: the included model of that name; a text with a slash, or any other, is a path.
- The command `carousel`: names are of the folder that `--checkpoints` or `CAROUSEL_CHECKPOINTS` gives, else of
  `checkpoints` in the folder where it is called, else of the included models.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

INCLUDED = _PACKAGE / "checkpoints" if (_PACKAGE / "checkpoints").is_dir() else _PACKAGE.parent / "checkpoints"
"""The folder of the included models: inside the package where it was installed, beside it in the repository."""

_SETTING = "CAROUSEL_CHECKPOINTS"


def included_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in INCLUDED.glob("*/config.json"))


def find_model(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder of an included model or, by its path, of any; None where neither exists."""
    text = os.fspath(name_or_path)
    if text in included_models():
        return INCLUDED / text
    path = Path(text).resolve()
    return path if path.is_dir() else None


def use_included_models() -> None:
    """For the command: serve the included models unless the user has others, by the environment or in this folder."""
    if not os.environ.get(_SETTING) and not Path("checkpoints").is_dir():
        os.environ[_SETTING] = str(INCLUDED)
