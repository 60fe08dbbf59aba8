"""States as requests bring them and answers return them."""

from app.errors import InvalidValueError
from app.registry import ServedModel
from models.backends.base import Own
from models.decoding.saved_state import SavedState, StateError


def given_state(text: str | None, served: ServedModel) -> SavedState | None:
    """The state that a request continues from. Raises `InvalidValueError`, saying which check failed."""
    if text is None:
        return None
    checkpoint = served.checkpoint
    try:
        return SavedState.decode(text, checkpoint.config.state_layout.size, checkpoint.fingerprint)
    except StateError as error:
        invalid = InvalidValueError(f"state: {error}", "state")
        invalid.code = "invalid_state"
        raise invalid from None


def returned_state(row: Own | None, position: int, at_start: bool, served: ServedModel) -> str:
    """A state for the client to keep. row: (S,)."""
    assert row is not None
    return SavedState(served.engine.host(row), position, at_start).encode(served.checkpoint.fingerprint)
