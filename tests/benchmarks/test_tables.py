"""The tables of the pages are those that the results make."""

from pathlib import Path

import pytest

from benchmarks.tables import PAGES, TABLES, filled, names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_up_to_date(page: Path) -> None:
    """`make figures` writes them."""
    text = page.read_text("utf-8")
    assert filled(text) == text


def test_every_table_stands_in_one_place() -> None:
    assert sorted(name for page in PAGES for name in names(page.read_text("utf-8"))) == sorted(TABLES)


def test_a_table_that_nobody_makes_is_named() -> None:
    with pytest.raises(KeyError, match="nothing"):
        filled("<!-- table: nothing -->\n<!-- end -->\n")
