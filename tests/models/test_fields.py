"""Descriptions are read from where a reader of the source finds them."""

from dataclasses import dataclass

from models.fields import descriptions


@dataclass
class Base:
    first: int = 1
    """Comes from the base class."""


@dataclass
class Derived(Base):
    second: float = 2.0
    """Spans
    two lines."""
    third: str = ""


def test_descriptions_stand_under_the_fields_of_a_class_and_its_bases() -> None:
    assert descriptions(Derived) == {"first": "Comes from the base class.", "second": "Spans two lines."}


def test_a_class_made_at_run_time_has_none() -> None:
    assert descriptions(type("Made", (), {"__annotations__": {"x": int}})) == {}
