"""The packages that Carousel consists of have plain names, which a project may have given to packages of its own."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("app", "models", "training")

ROOT = Path(__file__).resolve().parent.parent
"""The folder that ours are in."""


def check_packages() -> None:
    """Raises `ImportError` where Python finds another package by the name of one of ours. Imports none of them."""
    for name in PACKAGES:
        found = _place(name)
        if found is None or found.resolve() != ROOT / name:
            where = "no such package" if found is None else str(found)
            raise ImportError(
                f"carousel needs its own package {name!r} in {ROOT}, but Python finds {where}. If your project has a "
                f"package or module named {name!r}, rename it, move it into a package, or start Python with -P when "
                "it is only beside the script; or run 'carousel serve' and use the model over HTTP",
                name=name,
            )


def _place(name: str) -> Path | None:
    """The folder or module that `import name` gives, or gave already."""
    loaded = sys.modules.get(name)
    spec: ModuleSpec | None = loaded.__spec__ if loaded is not None else find_spec(name)
    if spec is None:
        file = getattr(loaded, "__file__", None)
        return Path(file) if file else None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
