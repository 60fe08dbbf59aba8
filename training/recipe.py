"""What to train, as a value: from a TOML file, from the command line, or from both, the command line winning.

    [corpus]    train, valid, test, exclude (lists of paths or patterns), description, licence; CorpusConfig's fields
    [network]   NetworkConfig's fields but for vocabulary_size
    [training]  TrainingConfig's fields
    [export]    storage

Whatever is left out is chosen from the text (training/defaults.py). Paths are relative to the data folder.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from models.config import NetworkConfig, NumberType
from training.config import TrainingConfig
from training.data.corpus import CorpusConfig

DEFAULT_STORAGE: NumberType = "bfloat16"


class RecipeError(ValueError):
    """A recipe or an option that says something impossible; the message names it."""


@dataclass(frozen=True)
class Sources:
    """Which text, as named by the user, and what to say of it on the model card."""

    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    description: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Export:
    """How the checkpoint is written."""

    storage: NumberType = DEFAULT_STORAGE


@dataclass(frozen=True)
class Recipe:
    """Everything that was asked for; `network` and `training` hold only what was given."""

    sources: Sources = field(default_factory=Sources)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    export: Export = field(default_factory=Export)


def read_recipe(path: Path) -> Recipe:
    """Raises `RecipeError` on a file that is missing or not TOML, and on unknown keys and wrong types, by name."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe ({getattr(error, 'strerror', None) or error})") from None
    try:
        return override(Recipe(), content)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None


def override(recipe: Recipe, tables: Mapping[str, Any]) -> Recipe:
    """The recipe with the values of `tables`, shaped as a recipe file, put over its own. Raises `RecipeError`."""
    known = ("corpus", "network", "training", "export")
    for name, table in tables.items():
        if name not in known:
            raise RecipeError(f"[{name}]: unknown table; known are {', '.join(known)}")
        if not isinstance(table, Mapping):
            raise RecipeError(f"{name}: has to be a table, [{name}]")
    corpus = dict(tables.get("corpus", {}))
    sources = {item.name: corpus.pop(item.name) for item in fields(Sources) if item.name in corpus}
    network, training = tables.get("network", {}), tables.get("training", {})
    return Recipe(
        replace(recipe.sources, **check("corpus", sources, Sources)),
        replace(recipe.corpus, **check("corpus", corpus, CorpusConfig, also=tuple(asdict(Sources())))),
        {**recipe.network, **check("network", network, NetworkConfig, without=("vocabulary_size",))},
        {**recipe.training, **check("training", training, TrainingConfig)},
        replace(recipe.export, **check("export", tables.get("export", {}), Export)),
    )


def check(
    table: str, values: Mapping[str, Any], kind: type, also: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`values` as fields of the dataclass `kind`, lists turned into tuples. Raises `RecipeError`, naming the key."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in without}
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise RecipeError(f"[{table}] {key}: unknown key; known are {', '.join(sorted((*hints, *also)))}")
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"[{table}] {key}: {value!r}: {error.errors()[0]['msg']}") from None
    return checked
