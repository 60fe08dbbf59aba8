"""White space and words, as every count, figure and boundary here understands them."""

import unicodedata


def words_in(text: str) -> list[str]:
    """The words of a text: what stands between white space."""
    return text.split()


def ends_in_space(text: str, before: bool = True) -> bool:
    """Whether a text ends in white space; of an empty text, whether what stands before it does (`before`)."""
    return text[-1].isspace() if text else before


def is_word_character(character: str) -> bool:
    """Whether it is a letter, a digit or a mark that rides on one."""
    return character.isalnum() or unicodedata.category(character).startswith("M")


def one_line(text: str, most: int = 500) -> str:
    """A text from outside as a message or a log shows it: one line, without characters that a terminal would obey or
    that UTF-8 has not, cut to `most`."""
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in shown])
