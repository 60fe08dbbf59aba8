"""Carousel as a library: `carousel.load("english-word")` gives a language model that scores, suggests and writes.

The package is a face over `app` and `training`, and nothing imports it. What it exports is imported when first asked
for, so that `import carousel` costs a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from carousel.packages import check_packages

if TYPE_CHECKING:
    from carousel.included import included_models
    from carousel.language_model import Answer, Error, LanguageModel, State, load

__all__ = ["Answer", "Error", "LanguageModel", "State", "included_models", "load"]

check_packages()

_HOME = dict.fromkeys(__all__, "carousel.language_model") | {"included_models": "carousel.included"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'carousel' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
