"""Text that is read piece by piece, so that a file may be larger than memory.

A document is a string, or a part of a file. Pieces end where no token can go on: before a line, before the space in
front of a word; only where a text has neither do they end anywhere.
"""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

PIECE_BYTES = 1 << 20


class CorpusError(ValueError):
    """A corpus that cannot be trained on, with what to do about it."""


@dataclass(frozen=True)
class FilePart:
    """Bytes [start, end) of a UTF-8 file with any line ends. unwrap: join the lines of a paragraph."""

    path: Path
    start: int
    end: int
    unwrap: bool = False


Document = str | FilePart


def whole_file(path: Path) -> FilePart:
    """Raises `CorpusError` when there is no reading it."""
    try:
        return FilePart(path, 0, path.stat().st_size)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None


def size(document: Document) -> int:
    """Characters of a string, bytes of a file."""
    return len(document) if isinstance(document, str) else document.end - document.start


def pieces(document: Document) -> Iterator[str]:
    """The text, in order, with `\\n` for line ends. Raises `CorpusError` when it is not text."""
    if isinstance(document, str):
        yield document
        return
    held = ""
    for text, is_last in _blocks(document):
        held += text
        end = len(held) if is_last else _end_of_piece(held, document.unwrap)
        if end:
            yield unwrap_lines(held[:end]) if document.unwrap else held[:end]
            held = held[end:]


def _blocks(part: FilePart) -> Iterator[tuple[str, bool]]:
    """Decoded blocks, and whether each is the last."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    position = part.start
    try:
        with part.path.open("rb") as file:
            file.seek(position)
            while block := file.read(min(PIECE_BYTES, part.end - position)):
                if b"\0" in block:
                    raise CorpusError(
                        f"{part.path}: looks like a binary file, or UTF-16 text (it holds zero bytes); give UTF-8 text"
                    )
                first = position - len(utf8.getstate()[0])
                is_last = position + len(block) >= part.end
                try:
                    text = decoder.decode(block, final=is_last)
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{part.path}: not UTF-8 text (byte {first + error.start}); "
                        "convert it, e.g. iconv -f latin1 -t utf-8"
                    ) from None
                yield text.removeprefix("\ufeff") if position == 0 else text, is_last
                position += len(block)
    except OSError as error:
        raise CorpusError(f"{part.path}: cannot be read ({error.strerror})") from None


def _end_of_piece(text: str, whole_paragraphs: bool) -> int:
    """Where the last whole piece of a text ends that goes on; 0: nowhere yet."""
    if whole_paragraphs and len(text) < 8 * PIECE_BYTES:
        return text.rfind("\n\n") + 1
    line_end = text.rfind("\n", 0, -1)
    while line_end >= 0 and text[line_end + 1].isspace():
        line_end = text.rfind("\n", 0, line_end)
    if line_end >= 0:
        return line_end + 1
    space = text.rfind(" ", 1)
    while space > 0 and text[space - 1].isspace():
        space = text.rfind(" ", 1, space)
    return space if space > 0 else len(text)


def read_text(path: Path, unwrap: bool = False) -> str:
    """A whole text file in memory. Raises `CorpusError` when it is not text."""
    return "".join(pieces(unwrapped(whole_file(path)) if unwrap else whole_file(path)))


def head(document: Document, characters: int) -> str:
    """The beginning of a text."""
    found = ""
    for piece in pieces(document):
        found += piece
        if len(found) >= characters:
            break
    return found[:characters]


def is_blank(document: Document) -> bool:
    return not any(piece.strip() for piece in pieces(document))


def cut(document: Document, position: int) -> tuple[Document, Document]:
    """What comes before and after about `position` (as `size` counts): a line's start, or a word's where there is but
    one line. One of the two may be empty."""
    if isinstance(document, str):
        place = len(document) if position >= len(document) else _line_start(document, position) if position > 0 else 0
        return document[:place], document[place:]
    place = document.start + min(max(position, 0), size(document))
    if 0 < position < size(document):
        place = _line_start_in_file(document, place)
    return replace(document, end=place), replace(document, start=place)


def _line_start(text: str, position: int) -> int:
    line_end = text.find("\n", position)
    if 0 <= line_end < len(text) - 1:
        return line_end + 1
    space = text.find(" ", position)
    return space if 0 <= space < len(text) - 1 else position


def _line_start_in_file(part: FilePart, place: int) -> int:
    with part.path.open("rb") as file:
        file.seek(place)
        line = file.readline(PIECE_BYTES)
    if line.endswith(b"\n") and place + len(line) < part.end:
        return place + len(line)
    space = line.find(b" ")
    if space >= 0 and place + space < part.end - 1:
        return place + space
    continuation = next((i for i, byte in enumerate(line) if byte & 0xC0 != 0x80), 0)  # not inside a character
    return place + continuation


def unwrapped(document: Document) -> Document:
    """One paragraph a line."""
    return unwrap_lines(document) if isinstance(document, str) else replace(document, unwrap=True)


def unwrap_lines(text: str) -> str:
    """One paragraph a line: lines that follow each other are joined, empty lines between paragraphs are dropped."""
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            paragraphs[-1].append(line.strip())
        elif paragraphs[-1]:
            paragraphs.append([])
    return "".join(" ".join(lines) + "\n" for lines in paragraphs if lines)
