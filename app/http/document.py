"""The OpenAPI document: what FastAPI makes of the routes, and what it cannot know of them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.schemas import StreamedText, StreamEnd

_REFERENCE = "#/components/schemas/{model}"
_KEY = "API key"


def install_document(app: FastAPI) -> None:
    """Have `/openapi.json` and `/docs` show it, made when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, events = models_json_schema(
        [(StreamedText, "serialization"), (StreamEnd, "serialization")], ref_template=_REFERENCE
    )
    components = document["components"]
    components["schemas"] = events["$defs"] | components["schemas"]
    components["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
    for operations in document["paths"].values():
        for operation in operations.values():
            if "401" in operation["responses"]:
                operation["security"] = [{_KEY: []}, {}]  # none where the server has no keys
    return document
