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
