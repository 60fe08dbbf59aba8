"""How a text is read before it is cut into tokens: what a vocabulary lacks is read as a twin of it that it has.

Twins are ways to type one thing: ’ and ', “ and ", an accented letter in one code point or two, full-width forms,
ligatures, white space of all kinds, CR LF and LF. What the vocabulary has as it is typed stays. The reading follows
from the vocabulary and the boundary alone: training and serving agree on it, and so does a checkpoint of any age.
"""

import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

APOSTROPHES = "'’‘ʼ＇´`′‛ʹʻˈ"
HYPHENS = "-‐‑‒−﹣－"
OPENING_QUOTES, CLOSING_QUOTES = '"“„‟«〝「『《', '"”″»〞＂」』》'
_LONG_DASHES = "—―⸺⸻"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"

_TWINS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(APOSTROPHES, tuple("'’")),
    **dict.fromkeys(HYPHENS, tuple("-‐")),
    **dict.fromkeys(OPENING_QUOTES, ('"', "“", "「", "«")),
    **dict.fromkeys(CLOSING_QUOTES, ('"', "”", "」", "»")),
    **dict.fromkeys(_LONG_DASHES, ("--", "—", "–", "-")),
    **dict.fromkeys(_INVISIBLE, ("",)),
    "–": ("--", "—", "-"),
    "…": ("...", "。。。"),
    "⋯": ("...", "…"),
    "。": (".",),
    "、": (",", "，"),
    ".": ("。",),
}
"""What a character may be read as, the best first; compatibility forms are added by rule."""

RUNS = {"--": "—", "...": "…"}
"""Runs of ASCII marks, and the mark that they are typed for."""

_SPACES = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace() and c != "\n")
_MARKS = "".join(
    c
    for c in map(chr, range(0x300, sys.maxunicode + 1))
    if unicodedata.category(c) in ("Mn", "Mc") and c not in "\ufe0f"
)
_WITHOUT_TWINS = (
    "\u0410-\u0418\u041a-\u0438\u043a-\u044f\u05d0-\u05ea\u0627-\u063a\u0641-\u064a\u0e01-\u0e30"
    "\u3041-\u304a\u4e00-\u9fff"
)
"""The inside of a character class: letters, Cyrillic to Han, that have no other form. Texts of them are passed over."""

_LETTER = r"[^\W\d_]"

NEAR = 500
"""Characters before a straight quote that are looked at to tell whether it opens."""


@dataclass(frozen=True)
class Edit:
    """Code points [start, end) of the text as read stand for [typed_start, typed_end) of the text as typed."""

    start: int
    end: int
    typed_start: int
    typed_end: int


class Reading:
    """A text as it is read, and where its parts stand in the text as typed."""

    def __init__(self, text: str, edits: list[Edit]) -> None:
        """edits: in order, where the two differ."""
        self.text = text
        self._edits = edits
        self._starts = [edit.start for edit in edits]

    @property
    def is_changed(self) -> bool:
        """Whether the two differ."""
        return bool(self._edits)

    def typed(self, start: int, end: int) -> tuple[int, int]:
        """The code points of the text as typed that [start, end) of the reading stands for; end > start."""
        return self._start(start), self._end(end)

    def _start(self, position: int) -> int:
        number = bisect_right(self._starts, position) - 1
        if number < 0:
            return position
        edit = self._edits[number]
        return edit.typed_start if position < edit.end else edit.typed_end + position - edit.end

    def _end(self, position: int) -> int:
        number = bisect_left(self._starts, position) - 1
        if number < 0:
            return position
        edit = self._edits[number]
        return edit.typed_end if position <= edit.end else edit.typed_end + position - edit.end


@dataclass(frozen=True)
class Known:
    """What a reader asks of a vocabulary.

    characters: that stand in its tokens. has_all: whether it can write every text all the same, by the byte. spaces:
    white space that it has as tokens. runs: runs of marks that stand in its tokens. unknown_in: how many unknown tokens
    a piece of text has; None where tokens are no words. is_split: whether a word is all between white space.
    takes_space: whether a token brings the space before it along, or needs none. line_end: how the boundary is written.
    """

    characters: frozenset[str]
    has_all: bool
    spaces: frozenset[str]
    runs: frozenset[str]
    unknown_in: Callable[[str], int] | None
    is_split: bool
    takes_space: bool
    line_end: str


class Reader:
    """Reads texts for one vocabulary. A text is read alike whatever comes with it."""

    def __init__(self, known: Known) -> None:
        self._known = known
        joints = ([c for c in group if c in known.characters] for group in (APOSTROPHES, HYPHENS))
        self._rival_joints = "".join(c for group in joints if known.unknown_in and len(group) > 1 for c in group)
        self._drops_spaces = known.takes_space and " " not in known.spaces
        """A space belongs to the word after it: a second one, or one before a line's end, is not read."""
        self._keeps_lines = known.line_end == "\n" or (not known.line_end and "\n" in known.characters)
        lacking = [c for c in map(chr, range(33, 127)) if c not in known.characters and self._twin(c) != c]
        runs = [run for run in RUNS if not self._has(run) and self._has(RUNS[run])]
        self._lacking, self._runs = lacking, runs
        spaces = ("  ", " \n") if self._drops_spaces else ()
        self._telling = (*spaces, *lacking, *runs, *(c for c in self._rival_joints if c.isascii()))
        """What a plain text has not."""
        self._joined = lru_cache(4096)(self._best_joined)

    def is_plain(self, text: str) -> bool:
        """Whether it is certain, at a glance, that a text is read as it is typed."""
        if not text.isascii() or (self._drops_spaces and text[-1:] == " "):
            return False
        for telling in self._telling:
            if telling in text:
                return False
        return text.isprintable() or (self._keeps_lines and text.replace("\n", "").isprintable())

    def read(self, text: str) -> Reading:
        """The text as the vocabulary can have it."""
        if self.is_plain(text):
            return Reading(text, [])
        parts: list[str] = []
        edits: list[Edit] = []
        typed = length = 0
        for match in self._matches(text):
            assert match.lastgroup
            start, end = match.span()
            if match.lastgroup == "accent" and start > typed:
                start -= 1  # the letter that the marks ride on
            read = self._rules[match.lastgroup](text[start:end], match)
            if read == text[start:end]:
                continue
            parts += [text[typed:start], read]
            length += start - typed
            edits.append(Edit(length, length + len(read), start, end))
            length += len(read)
            typed = end
        return Reading("".join([*parts, text[typed:]]), edits)

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        """What may have to be read otherwise. Lines that are plain, as most are, are not searched."""
        if self._known.line_end != "\n":
            yield from self._special.finditer(text)
            return
        start = 0
        while start < len(text):
            end = (text.find("\n", start) + 1) or len(text)
            if not self.is_plain(text[start:end]):
                yield from self._special.finditer(text, start, end)
            start = end

    @cached_property
    def _rules(self) -> dict[str, Callable[[str, re.Match[str]], str]]:
        """(what is typed, its match) -> what it is read as, by the name of the rule."""
        return {
            "paragraph": lambda _typed, _match: "\n\n",
            "space": self._space,
            "line": lambda _typed, _match: "\n",
            "accent": lambda typed, _match: self._accented(typed),
            "joined": lambda typed, _match: self._joined(typed),
            "run": lambda typed, _match: RUNS[typed],
            "other": self._other,
        }

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """What may have to be read otherwise than it is typed."""
        known = self._known
        space = f"[ {_class(c for c in _SPACES if c not in {*known.spaces, ' ', chr(13)})}]"
        line, rules = r"(?:\r\n?|\n)", {}
        if known.line_end == "\n\n":
            rules["paragraph"] = rf"{line}(?:{space}*{line})+"
            line = rf"(?<![\r\n]){line}(?![\r\n])"
        if known.line_end != "\n" and "\n" not in known.characters:
            space = f"(?:{space}|{line})"
        if self._drops_spaces:
            rules["space"] = rf"(?! [^\s]){space}+"
        else:
            rules["space"] = rf"(?! ){space}"
        rules["line"] = r"\r\n?"
        rules["accent"] = f"[{_class(_MARKS)}]+"
        if self._rival_joints:
            joint = f"[{_class(self._rival_joints)}]"
            rules["joined"] = (
                rf"(?<!\S)[^\s{_class(self._rival_joints)}]*{joint}\S*"
                if known.is_split
                else rf"(?<!{_LETTER}){_LETTER}+(?:{joint}{_LETTER}+)+"
            )
        if self._runs:
            rules["run"] = "|".join(
                rf"(?<!{re.escape(run[0])}){re.escape(run)}(?!{re.escape(run[0])})" for run in self._runs
            )
        has = _class(c for c in known.characters if not c.isascii()) + _WITHOUT_TWINS
        lacking = _class(self._lacking)
        rules["other"] = rf"[^\x00-\x7f{has}{_class(_SPACES)}]" + (f"|[{lacking}]" if self._lacking else "")
        pattern = "|".join(f"(?P<{name}>{rule})" for name, rule in rules.items())
        if self._rival_joints:
            return re.compile(pattern)
        plain = "".join(c for c in map(chr, range(33, 127)) if c not in self._telling)
        plain = "".join(c for c in plain if c not in {run[0] for run in self._runs})
        return re.compile(f"(?=[^{_class(plain)}{has}]|[{_class(_MARKS)}])(?:{pattern})")

    def _space(self, _typed: str, match: re.Match[str]) -> str:
        """White space that the vocabulary has not: a space for each, or one for all where a space belongs to a word."""
        if not self._drops_spaces:
            return " "
        text, end = match.string, match.end()
        return "" if end == len(text) or text[end] in "\r\n" else " "

    def _accented(self, typed: str) -> str:
        """A letter and what rides on it: composed, where the vocabulary has that."""
        forms = (unicodedata.normalize("NFC", typed), typed, unicodedata.normalize("NFD", typed))
        return next((form for form in forms if self._has(form)), forms[0])

    def _other(self, typed: str, match: re.Match[str]) -> str:
        text, start, end = match.string, match.start(), match.end()
        before, after = text[max(0, start - 1) : start], text[end : end + 1]
        if typed == "–" and before.isalnum() and after.isalnum() and self._has("-"):
            return "-"
        if typed in "'\"":
            line = text[max(0, start - NEAR, text.rfind("\n", max(0, start - NEAR), start) + 1) : start]
            quotes = "‘’" if typed == "'" else "“”"
            quote = quotes[0] if _opens(typed, before, after, line) else quotes[1]
            if self._has(quote):
                return quote
        return self._twins[typed]

    @cached_property
    def _twins(self) -> "_Twins":
        return _Twins(self._twin)

    def _twin(self, typed: str) -> str:
        """What a character that the vocabulary lacks is read as, wherever it stands; itself, where there is no twin."""
        candidates = list(_TWINS.get(typed, ()))
        if not self._known.has_all:
            compatible = [unicodedata.normalize(form, typed) for form in ("NFC", "NFKC", "NFD")]
            candidates += [form for form in compatible if " " not in form]
            if "!" <= typed <= "~":
                candidates.append(chr(ord(typed) + 0xFEE0))
        return next((c for c in candidates if c != typed and self._has(c)), typed)

    def _has(self, text: str) -> bool:
        """Whether the vocabulary has all of a text's characters, and in a row where it is a run of marks."""
        has_characters = all(map(self._known.characters.__contains__, text))
        return has_characters and (text not in RUNS or not self._known.unknown_in or text in self._known.runs)

    def _best_joined(self, word: str) -> str:
        """A word with marks in it, such as don’t: with the marks with which most of it is known."""
        unknown_in = self._known.unknown_in
        assert unknown_in
        forms = [word]
        for group in (APOSTROPHES, HYPHENS):
            rivals = [c for c in group if c in self._rival_joints]
            forms += [re.sub(f"[{_class(rivals)}]", rival, form) for form in list(forms) for rival in rivals]
        return min(dict.fromkeys(forms), key=lambda form: unknown_in(" " + form))


class _Twins(dict[str, str]):
    """The twins of characters, found when they are first asked for."""

    def __init__(self, find: Callable[[str], str]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, typed: str) -> str:
        self[typed] = twin = self._find(typed)
        return twin


def _opens(quote: str, before: str, after: str, line: str) -> bool:
    """Whether a straight quote opens. line: what its line has before it."""
    if not before or before.isspace() or before in "([{-—–":
        return True
    if before.isalnum() and after.isalnum():  # where words are not spaced; an apostrophe otherwise
        return quote == '"' and line.count(quote) % 2 == 0
    return after.isalnum()


def _class(characters: Iterable[str]) -> str:
    """The inside of a character class of a pattern."""
    codes = sorted(set(map(ord, characters)))
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
