"""What to train, as a value: from a TOML file, from the command line, or from both, the command line winning.

    task        what the network is for, `language_model` if the file does not say
    [corpus]    the fields of Sources and CorpusConfig
    [network]   the fields of NetworkConfig but for vocabulary_size
    [training]  the fields of TrainingConfig
    [export]    the fields of Export

Whatever is left out is chosen from the text (training/defaults.py). Paths are relative to the data folder.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from models.config import NetworkConfig, NumberType
from training.config import TrainingConfig
from training.data.corpus import CorpusConfig

DEFAULT_TASK = "language_model"


class RecipeError(ValueError):
    """A recipe or an option that says something impossible; the message names it."""


@dataclass(frozen=True)
class Sources:
    """Which text is read, and what the model card says of it."""

    train: tuple[Path, ...] = ()
    """Text to train on."""
    valid: tuple[Path, ...] = ()
    """Validation text, which is never trained on. Repeatable."""
    test: tuple[Path, ...] = ()
    """Test text, which is never trained on. Repeatable."""
    exclude: tuple[str, ...] = ()
    """Pattern of files to leave out of the training text, e.g. '*.md'. Repeatable."""
    description: str | None = None
    """A sentence on the text, for the model card."""
    licence: str | None = None
    """The text's licence, for the model card."""


@dataclass(frozen=True)
class Export:
    """How the checkpoint is written."""

    storage: NumberType = "bfloat16"
    """How the checkpoint's weights are stored. int8 is smallest."""


@dataclass(frozen=True)
class Recipe:
    """Everything that was asked for; `network` and `training` hold only the fields that the user has set."""

    sources: Sources = field(default_factory=Sources)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    export: Export = field(default_factory=Export)
    task: str = DEFAULT_TASK


TABLES: dict[str, tuple[type, ...]] = {
    "corpus": (Sources, CorpusConfig),
    "network": (NetworkConfig,),
    "training": (TrainingConfig,),
    "export": (Export,),
}
"""The tables of a recipe file, and the dataclasses whose fields are their keys."""

CHOSEN = ("vocabulary_size", "outputs")
"""Fields of NetworkConfig that no recipe sets: they follow from the text and the task."""


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
    task = tables.get("task", recipe.task)
    if not isinstance(task, str):
        raise RecipeError(f"task: {task!r} is not a name")
    tables = {name: table for name, table in tables.items() if name != "task"}
    for name, table in tables.items():
        if name not in TABLES:
            raise RecipeError(f"[{name}]: unknown table; known are {', '.join(TABLES)}")
        if not isinstance(table, Mapping):
            raise RecipeError(f"{name}: has to be a table, [{name}]")
    corpus = check("corpus", tables.get("corpus", {}), *TABLES["corpus"])
    sources = {item.name: corpus.pop(item.name) for item in fields(Sources) if item.name in corpus}
    return Recipe(
        replace(recipe.sources, **sources),
        replace(recipe.corpus, **corpus),
        {**recipe.network, **check("network", tables.get("network", {}), NetworkConfig, without=CHOSEN)},
        {**recipe.training, **check("training", tables.get("training", {}), TrainingConfig)},
        replace(recipe.export, **check("export", tables.get("export", {}), Export)),
        task,
    )


def check(table: str, values: Mapping[str, Any], *kinds: type, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """`values` as fields of the dataclasses `kinds`, lists turned into tuples. Raises `RecipeError`, naming the key."""
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items() if name not in without}
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise RecipeError(f"[{table}] {key}: unknown key; known are {', '.join(sorted(hints))}")
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"[{table}] {key}: {value!r}: {error.errors()[0]['msg']}") from None
    return checked
