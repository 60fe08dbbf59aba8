"""What the bodies of several tasks share: kinds of fields, and the sampling fields, which are `SamplingParams`' own."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetJsonSchemaHandler,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from models.decoding.sampling import SamplingParams
from models.fields import descriptions


class Body(BaseModel):
    """Types are not coerced, numbers are finite, and null means the default of a field."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        """Without nulls. Of the fields that do not exist the first is enough to complain of, where they are refused:
        there may be a hundred thousand."""
        if not isinstance(value, dict):
            return value
        known = {name: item for name in cls.model_fields if (item := value.get(name)) is not None}
        if cls.model_config.get("extra") == "forbid":
            unknown = next((name for name in value if name not in cls.model_fields), None)
            if unknown is not None:
                known[unknown] = value[unknown]
        return known

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Says that null may stand where there is a default."""
        schema = handler(core)
        resolved = handler.resolve_ref_schema(schema)
        for name, field in resolved.get("properties", {}).items():
            if name not in resolved.get("required", []) and {"type": "null"} not in field.get("anyOf", []):
                value = {key: field.pop(key) for key in list(field) if key not in _SAID_OF_A_FIELD}
                field["anyOf"] = [*value.get("anyOf", [value]), ALSO_NULL]
        return schema


_SAID_OF_A_FIELD = ("title", "description", "default")

ALSO_NULL = {"type": "null", "description": "The default."}


class RequestBody(Body):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """What every response says of its origin."""

    id: str
    model: str
    backend: str = Field(description='Device and number type, such as "cpu-int8".')


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("Input should be a string or a list of strings")
    return value


def encodable(value: str) -> str:
    """The text itself. Raises `ValueError` for a string with a lone surrogate, which UTF-8 cannot hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate at character {error.start} is not text") from None
    return value


Text = Annotated[str, AfterValidator(encodable)]
"""Any Unicode text, control characters included."""

Texts = Annotated[list[Text], FailFast(), BeforeValidator(_listed, json_schema_input_type=str | list[str])]
"""One text or several."""

SomeTexts = Annotated[
    list[Text],
    FailFast(),
    MinLen(1),
    BeforeValidator(_listed, json_schema_input_type=str | Annotated[list[str], MinLen(1)]),
]
"""One text or several, at least one."""

StopStrings = Annotated[
    list[Annotated[Text, MinLen(1)]],
    FailFast(),
    BeforeValidator(
        _listed,
        json_schema_input_type=Annotated[str, MinLen(1)] | list[Annotated[str, MinLen(1)]],
    ),
]
"""One string or several, none of them empty: that would stop at once."""

Seed = Annotated[int, Field(ge=-1, le=2**63 - 1)]
"""-1: the server chooses one."""

Timeout = Annotated[
    float | None, Field(gt=0, description="Seconds that the request may take; at most the server's limit.")
]
Model = Annotated[Text | None, Field(description="Name of a served model; when missing, the default model.")]
State = Annotated[str | None, Field(description="A state that an answer returned: the text continues from it.")]
ReturnState = Annotated[bool, Field(description="Return the state at the end of the text.")]


_TOKEN_IDS = Field(json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,9}$"}})


def _keyed_by_token_id(value: dict[str, float]) -> dict[str, float]:
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise ValueError(f"keys are token ids, {key[:32]!r} is not a token id")
    return value


def _sampling_fields() -> dict[str, Any]:
    """Type, range, default and description of every sampling parameter; a mapping from token ids has string keys in
    JSON."""
    kinds, meanings = get_type_hints(SamplingParams, include_extras=True), descriptions(SamplingParams)
    found: dict[str, Any] = {}
    for parameter in fields(SamplingParams):
        kind, default = kinds[parameter.name], parameter.default
        if _is_mapping(kind):
            value: Any = get_args(kind)[1]
            kind = Annotated[dict[str, value], AfterValidator(_keyed_by_token_id), _TOKEN_IDS]
        field = Field(default, description=meanings[parameter.name])
        if default is MISSING:
            field = Field(default_factory=parameter.default_factory, description=meanings[parameter.name])  # type: ignore[arg-type]
        found[parameter.name] = (kind, field)
    return found


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is Mapping


if TYPE_CHECKING:

    class SamplingBody(BaseModel):
        """The sampling fields; see `_sampling_fields`."""

        top_k: int = 0

else:
    SamplingBody = create_model("SamplingBody", **_sampling_fields())


def sampling_params(body: SamplingBody) -> SamplingParams:
    """The sampling parameters that a body asks for."""
    values = {parameter.name: getattr(body, parameter.name) for parameter in fields(SamplingParams)}
    for name in _MAPPINGS:
        values[name] = {int(key): value for key, value in values[name].items()}
    return SamplingParams(**values)


_MAPPINGS = [name for name, kind in get_type_hints(SamplingParams).items() if _is_mapping(kind)]
