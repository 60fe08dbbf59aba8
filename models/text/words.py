"""White space and words, as every count, figure and boundary here understands them."""

import unicodedata

JOINTS = "'’‘ʼ＇-‐‑"
"""Apostrophes and hyphens, which may stand inside a word."""


def words_in(text: str) -> list[str]:
    """The words of a text: what stands between white space."""
    return text.split()


def ends_in_space(text: str, before: bool = True) -> bool:
    """Whether a text ends in white space; of an empty text, whether what stands before it does (`before`)."""
    return text[-1].isspace() if text else before


def is_word_character(character: str) -> bool:
    """Whether it is a letter, a digit or a mark that rides on one."""
    return character.isalnum() or unicodedata.category(character).startswith("M")


def begins_word(text: str) -> int:
    """Where the word begins that a text ends in; at its end, where it ends in none.

    An apostrophe or a hyphen after a letter goes on with the word, as in don' and well-kno; one after a space does not.
    """
    start = len(text)
    while start and is_word_character(text[start - 1]):
        start -= 1
    joint = text[start - 1 : start]
    if joint and joint in JOINTS and start > 1 and is_word_character(text[start - 2]):
        return begins_word(text[: start - 1])
    return start


def same_script(word: str, more: str) -> bool:
    """Whether letters that go on with a word are of its last letter's script."""
    last = next(filter(str.isalpha, reversed(word)), None)
    return last is None or all(_script(letter) == _script(last) for letter in more if letter.isalpha())


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


def one_line(text: str, most: int = 500) -> str:
    """A text from outside as a message or a log shows it: one line, without characters that a terminal would obey or
    that UTF-8 has not, cut to `most`."""
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in shown])
