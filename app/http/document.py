"""The OpenAPI document: what FastAPI makes of the routes, with the events of streams and the API key added."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.tasks import TASKS

_REFERENCE = "#/components/schemas/{model}"
_KEY = "API key"


def install_document(app: FastAPI) -> None:
    """Make `/openapi.json` and `/docs` show the document, which is made at the first request for it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    kinds = [kind for task in TASKS if task.stream for kind in task.stream.kinds]
    _, events = models_json_schema([(kind, "serialization") for kind in kinds], ref_template=_REFERENCE)
    components = document["components"]
    components["schemas"] = events["$defs"] | components["schemas"]
    components["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
    for operations in document["paths"].values():
        for operation in operations.values():
            if "401" in operation["responses"]:
                operation["security"] = [{_KEY: []}, {}]  # {}: a server without keys asks for none
    return document
