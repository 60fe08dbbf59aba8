"""The playground: one page, its style and its script."""

from pathlib import Path

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from app.http.parsing import key_where_closed

FOLDER = Path(__file__).parents[1] / "page"
PARTS = ("style.css", "page.js")

# The page loads nothing from other hosts, no other page may frame it, and after an upgrade all of it is new.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False, dependencies=[Depends(key_where_closed)])


@router.get("/")
async def get_page() -> FileResponse:
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


@router.get("/page/{name}")
async def get_part(name: str) -> FileResponse:
    if name not in PARTS:
        raise HTTPException(404, "there is no such file")
    return FileResponse(FOLDER / name, headers=HEADERS)
