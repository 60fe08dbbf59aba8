"""Options of commands that are fields of request bodies: name, type, default and help are taken from the field."""

import inspect
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Command = TypeVar("Command", bound=Callable[..., None])

SHORT = {"n": "-n", "temperature": "-t"}
"""One-letter forms of options."""


def with_fields(body: type[BaseModel], names: Iterable[str]) -> Callable[[Command], Command]:
    """Gives a command an option for each of these fields; it receives their values as `**fields`.

    Typer reads the options from the signature, so the signature gets a parameter for each.
    """
    options = [_parameter(name, body.model_fields[name]) for name in names]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + options
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: Any = plain(field.annotation)
    default = field.get_default(call_default_factory=True)
    option = f"--{name.replace('_', '-')}"
    if len(name) == 1:
        declarations = [SHORT[name]]
    elif kind is bool and default:
        declarations = [f"{option}/--no-{name.replace('_', '-')}"]
    else:
        declarations = [option, *filter(None, [SHORT.get(name)])]
    text = (field.description or "").replace("`", "")
    if get_origin(kind) is list:
        text += " Repeatable."
    annotation = Annotated[kind, typer.Option(*declarations, help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def plain(annotation: Any) -> Any:
    """The type of an option for a field of this type: ranges dropped, as the body checks them. None: no option can hold
    such a value."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return list[str] if plain(get_args(annotation)[0]) is str else None
    if get_origin(annotation) in (Union, UnionType):
        kinds = [plain(kind) for kind in get_args(annotation) if kind is not NoneType]
        return kinds[0] | None if len(kinds) == 1 and kinds[0] is not None else None
    return annotation if annotation in (bool, int, float, str) else None
