"""The formats of users' files, by suffix, in one table. A new format is a function and an entry of `READERS`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from models.documents.text import CorpusError, Document, pieces, unwrapped, whole_file

Reader = Callable[[Path], list[Document]]
"""Turns a file into documents. Raises `CorpusError` where it cannot be read."""


def plain_text(path: Path) -> list[Document]:
    """UTF-8 text, a document a file, which stays on disk."""
    return [whole_file(path)]


READERS: dict[str, Reader] = {".txt": plain_text, ".text": plain_text, ".md": plain_text}
"""What is read of a folder. A named file with any other suffix is plain text."""


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, and below folders the files of a known format, sorted by name. Raises `CorpusError`."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in READERS)
            if not found:
                raise CorpusError(f"{path}: no text files in this folder (looked for *{', *'.join(READERS)})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise CorpusError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def read_documents(files: Sequence[Path], unwrap: bool = False) -> list[Document]:
    """The documents of files. unwrap: join the lines of each paragraph."""
    documents = [document for file in files for document in READERS.get(file.suffix, plain_text)(file)]
    return [unwrapped(document) for document in documents] if unwrap else documents


def read_texts(files: Sequence[Path], unwrap: bool = False) -> list[str]:
    """As `read_documents`, each document as a string in memory."""
    return ["".join(pieces(document)) for document in read_documents(files, unwrap)]
