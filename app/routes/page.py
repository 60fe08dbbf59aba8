"""The playground: one page, its style and its script."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parents[1] / "page"

# The page takes nothing from anywhere else, and no other page may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def get_page() -> FileResponse:
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


def mount_page(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/page", StaticFiles(directory=FOLDER), name="page")
