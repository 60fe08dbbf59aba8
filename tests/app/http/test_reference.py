"""The documents that are made of the program: they say what it does today."""

import re
from pathlib import Path

import httpx

from app.http.reference import api_reference
from app.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"


def test_the_api_reference_is_the_services_own(client: httpx.Client) -> None:
    """Make it anew with `python -m app reference > docs/api.md`."""
    text = api_reference(client.get("/openapi.json").json())
    assert (DOCS / "api.md").read_text() == text
    for route in ("POST /generate", "POST /score", "POST /next", "POST /rescore", "POST /v1/completions"):
        assert f"## {route}\n" in text
    anchors = {title.lower() for title in re.findall(r"^### (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", text)) == anchors


def test_the_table_of_settings_is_of_the_settings() -> None:
    """Make it anew with `python -m app settings > docs/settings.md`."""
    assert (DOCS / "settings.md").read_text() == Settings.table()
