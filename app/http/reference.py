"""The API reference as Markdown, made of the OpenAPI document alone: it cannot say what the service does not do."""

import json
from typing import Any

from app.tasks.body import ALSO_NULL

Schema = dict[str, Any]

METHODS = ("get", "post")

INTRODUCTION = """\
Made by `python -m app reference` of the OpenAPI document that `/docs` shows. Every error has the body
[ErrorResponse](#errorresponse). How much a request may ask for (tokens, choices, texts, bytes, seconds) is
limited by [settings](settings.md); `GET /info` tells those of a running server, and an error names the one that was
passed. An explicit `null` means the default of a field.
"""


def api_reference(document: Schema) -> str:
    """document: as `/openapi.json` has it."""
    schemas = document["components"]["schemas"]
    parts = ["# API reference", "", *_lines(INTRODUCTION)]
    shown: list[str] = ["ErrorResponse"]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                parts += _operation(f"{method.upper()} {path}", operations[method], schemas, shown)
    parts += ["## Parts of answers", ""]
    for name in shown:  # grows on the way
        parts += [f"### {name}", "", *_lines(schemas[name].get("description")), *_fields(schemas[name], schemas, shown)]
    return "\n".join(parts).rstrip() + "\n"


def _operation(title: str, operation: Schema, schemas: Schema, shown: list[str]) -> list[str]:
    parts = [f"## {title}", "", operation["summary"], "", *_lines(operation.get("description"))]
    if parameters := operation.get("parameters"):
        rows = [[f"`{one['name']}`", _type(one["schema"], shown), one.get("description", "")] for one in parameters]
        parts += _table(["parameter", "type", "meaning"], rows)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        schema = schemas[_name(body)]
        parts += _fields(schema, schemas, shown)
        for example in schema.get("examples", []):
            parts += ["```json", json.dumps(example, indent=2), "```", ""]
    answers = operation["responses"]
    answer = answers["200"].get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in answer:
        schema = schemas[_name(answer)]
        parts += ["The answer:", "", *_lines(schema.get("description")), *_fields(schema, schemas, shown)]
    if stream := answers["200"].get("content", {}).get("text/event-stream"):
        events = [_type(one, shown) for one in stream.get("schema", {}).get("oneOf", [])]
        parts += _lines(answers["200"]["description"] + (f" Events: {', '.join(events)}." if events else ""))
    errors = {
        status: one for status, one in answers.items() if status not in ("200", "422") or "ErrorResponse" in str(one)
    }
    if errors := {status: one for status, one in errors.items() if status != "200"}:
        parts += [f"- {status}: {one['description']}" for status, one in errors.items()] + [""]
    return parts


def _fields(schema: Schema, schemas: Schema, shown: list[str]) -> list[str]:
    required = schema.get("required", [])
    rows = []
    for name, one in schema.get("properties", {}).items():
        default = "required" if name in required and "default" not in one else ""
        if "default" in one:
            default = f"`{json.dumps(one['default'])}`"
        resolved = {**schemas.get(_name(one), {}), **one} if "$ref" in one else one
        rows.append([f"`{name}`", _type(one, shown), default, one.get("description", "") or _first(resolved)])
    with_default = any(row[2] for row in rows)
    header = ["field", "type", "default", "meaning"]
    if not with_default:
        header.pop(2)
        rows = [[row[0], row[1], row[3]] for row in rows]
    return _table(header, rows)


def _type(schema: Schema, shown: list[str]) -> str:
    """In words, with its range; objects by name, to be shown later."""
    if "$ref" in schema:
        name = _name(schema)
        if name not in shown:
            shown.append(name)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one, shown) for one in schema["anyOf"] if one != ALSO_NULL)
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), shown)}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'], shown)}"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    ranges = [f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), *([f"({', '.join(ranges)})"] if ranges else [])])


def _name(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _first(schema: Schema) -> str:
    return str(schema.get("description", "")).split("\n\n")[0].replace("\n", " ")


def _lines(text: str | None) -> list[str]:
    return [text.strip(), ""] if text else []


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *map(line, rows), ""]
