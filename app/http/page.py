"""The playground, one page with its style and its script, and the viewer of the OpenAPI document."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

from app.http.parsing import key_where_closed

FOLDER = Path(__file__).parents[1] / "page"
PARTS = ("style.css", "page.js")
VIEWER_PARTS = ("swagger-ui.css", "swagger-ui-bundle.js")

# Pages load nothing from other hosts, no other page may frame them, and after an upgrade all of them is new.
_POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
VIEWER_HEADERS = HEADERS | {"Content-Security-Policy": f"{_POLICY}; style-src 'self' 'unsafe-inline'"}

router = APIRouter(include_in_schema=False, dependencies=[Depends(key_where_closed)])


@router.get("/")
async def get_page() -> FileResponse:
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


@router.get("/page/{name}")
async def get_part(name: str) -> FileResponse:
    if name not in PARTS:
        raise HTTPException(404, "there is no such file")
    return FileResponse(FOLDER / name, headers=HEADERS)


@router.get("/openapi.json")
async def get_document(request: Request) -> dict[str, Any]:
    root: str = request.scope["root_path"]
    document: dict[str, Any] = request.app.openapi()
    return document | {"servers": [{"url": root}]} if root else document


@router.get("/docs")
async def get_viewer(request: Request) -> HTMLResponse:
    page = (FOLDER / "docs.html").read_text(encoding="utf-8")
    return HTMLResponse(page.replace("ROOT", request.scope["root_path"]), headers=VIEWER_HEADERS)


@router.get("/docs/{name}")
async def get_viewer_part(name: str) -> FileResponse:
    if name == "docs.js":
        return FileResponse(FOLDER / name, headers=HEADERS)
    if name not in VIEWER_PARTS:
        raise HTTPException(404, "there is no such file")
    # Swagger UI, which this package holds; its own use, an application without other hosts, needs scripts in the page.
    return FileResponse(str(files("fastapi_offline") / "static" / name), headers=HEADERS)
