"""States as requests bring them and answers return them."""

import hashlib

from app.errors import InvalidValueError
from app.tasks.task import Call
from models.backends.base import Own
from models.decoding.saved_state import SavedState, StateError
from models.text.tokenizer import Tokenizer


def given_state(text: str | None, call: Call) -> SavedState | None:
    """The state that a request continues from. Raises `InvalidValueError`, saying which check failed."""
    if text is None:
        return None
    checkpoint = call.served.checkpoint
    try:
        return SavedState.decode(text, checkpoint.config.state_layout.size, checkpoint.version, _secret(call))
    except StateError as error:
        invalid = InvalidValueError(f"state: {error}", "state")
        invalid.code = "invalid_state"
        raise invalid from None


def after(state: SavedState | None, text: str) -> str:
    """A text as it stands after a state: with the space that the state has left open."""
    return " " + text if text and state is not None and state.open_space else text


def cut_open_space(text: str, state: SavedState | None, tokenizer: Tokenizer) -> tuple[str, bool]:
    """What of a text after a state can be consumed, and whether a space is left open (`Tokenizer.cut_open_space`)."""
    if not text:
        return "", state is not None and state.open_space
    return tokenizer.cut_open_space(after(state, text))


def returned_state(row: Own | None, position: int, at_start: bool, open_space: bool, call: Call) -> str:
    """A state for the client to keep. row: (S,)."""
    assert row is not None
    state = SavedState(call.served.engine.host(row), position, at_start, open_space)
    return state.encode(call.served.version, _secret(call))


def _secret(call: Call) -> bytes:
    """What states are signed with: another for each owner, so that nobody goes on from another's state."""
    key = call.settings.state_key
    if key is None:
        return b""
    return hashlib.blake2b(call.owner.encode(), key=hashlib.sha256(key.get_secret_value().encode()).digest()).digest()
