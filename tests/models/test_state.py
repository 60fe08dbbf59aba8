"""States as strings: exact, canonical, and refused with a reason."""

import base64

import numpy as np
import pytest

from models.decoding.saved_state import SavedState, StateError

MODEL, OTHER = "ab" * 32, "cd" * 32
STATE = SavedState(np.array([0.0, -0.0, 1e-40, 1 / 3, -1e12], np.float32), position=12345, at_start=True)
TEXT = STATE.encode(MODEL)


def damaged(index: int, value: int) -> str:
    content = bytearray(base64.urlsafe_b64decode(TEXT + "=" * (-len(TEXT) % 4)))
    content[index] ^= value
    return base64.urlsafe_b64encode(bytes(content)).decode().rstrip("=")


def test_a_state_comes_back_bit_for_bit() -> None:
    back = SavedState.decode(TEXT, 5, MODEL)
    assert back.row.tobytes() == STATE.row.tobytes()
    assert (back.position, back.at_start) == (12345, True)
    assert back.encode(MODEL) == TEXT
    assert TEXT.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "characters"),
        (TEXT[:-1], "characters"),
        (TEXT + "=", "characters"),
        ("!" + TEXT[1:], "base64"),
        (TEXT[:-1] + ("B" if TEXT[-1] == "A" else "A"), "checksum|one form"),
        (damaged(0, 2), "version"),
        (damaged(3, 1), "checksum"),
        (damaged(25, 1), "checksum"),
        (damaged(-1, 1), "checksum"),
        (STATE.encode(OTHER), "another model"),
        (SavedState(np.array([1.0, np.inf, 0.0, 0.0, 0.0]), 1, False).encode(MODEL), "finite"),
        (SavedState(np.array([1.0, 3.4e38, 0.0, 0.0, 0.0]), 1, False).encode(MODEL), "larger than any text"),
        (SavedState(np.zeros(5), 1 << 63, False).encode(MODEL), "header"),
        (SavedState(np.zeros(6), 1, False).encode(MODEL), "characters"),
    ],
)
def test_what_is_no_state_of_this_model_is_refused(text: str, reason: str) -> None:
    with pytest.raises(StateError, match=reason):
        SavedState.decode(text, 5, MODEL)
