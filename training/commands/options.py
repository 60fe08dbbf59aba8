"""The options of `train` that are made from the fields of dataclasses, so that a new field is a new option.

The option's name is the field's, its help the first sentence of the docstring under the field, its panel the class that
has the field. What is not set on the command line is left to the recipe, or chosen from the text.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from models.fields import descriptions
from training.recipe import CHOSEN, TABLES, RecipeError
from training.regularisation import Regularisation

ARGUMENTS = ("train",)
"""Fields that are arguments of the command and not options."""


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for every field of a recipe. It gets them as keyword arguments."""
    own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(kind, name))
        for _, kind, name in _fields()
    ]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return command


def tables(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables of a recipe file with the options that were set, by field name. Raises `RecipeError`."""
    found: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    for table, kind, name in _fields():
        value = values[name]
        if value is None or value == []:
            continue
        hint = get_type_hints(kind)[name]
        if hint == tuple[int, ...]:
            value = _widths(name, value)
        elif hint == tuple[Path, ...]:
            value = absolute(value)
        found[table][name] = value
    return found


def absolute(paths: list[Path]) -> list[Path]:
    """Paths of the command line start from the current directory, those of a recipe from the data folder."""
    return [path.absolute() for path in paths]


def _fields() -> Iterator[tuple[str, type, str]]:
    """Table, class and name of every field that is an option."""
    for table, kinds in TABLES.items():
        for kind in kinds:
            for field in fields(kind):
                if field.name not in (*ARGUMENTS, *(CHOSEN if table == "network" else ())):
                    yield table, kind, field.name


def _annotation(kind: type, name: str) -> Any:
    hint = get_type_hints(kind)[name]
    accepted = {tuple[int, ...]: str, tuple[Path, ...]: list[Path], tuple[str, ...]: list[str]}.get(hint, hint)
    help_text = descriptions(kind)[name].split(". ")[0].removesuffix(".") + "."
    if hint == tuple[int, ...]:
        help_text = help_text.removesuffix(".") + ", e.g. 512,512."
    return Annotated[accepted | None, typer.Option(help=help_text, rich_help_panel=_panel(kind, name))]


def _panel(kind: type, name: str) -> str:
    if name in Regularisation.__dataclass_fields__:
        return "Regularisation"
    return {"Sources": "Text", "CorpusConfig": "Text"}.get(kind.__name__, kind.__name__.removesuffix("Config"))


def _widths(name: str, text: str) -> list[int]:
    try:
        return [int(width) for width in text.split(",")]
    except ValueError:
        option = "--" + name.replace("_", "-")
        raise RecipeError(f"{option}: {text!r} is not a list of widths like 512,512") from None
