"""Texts in, results out, of any number at constant memory: lines or JSONL from a file or a pipe; an output that an
interruption does not lose; what share of the texts is more probable than one.
"""

import asyncio
import fcntl
import json
import math
import os
import threading
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar

Batch = TypeVar("Batch")

Result = TypeVar("Result")

Bucket = Literal["head", "middle", "tail"]

BATCH, BATCH_CHARACTERS = 64, 200_000
"""Texts scored together, fewer where they are long."""

IN_FLIGHT = 4
"""Batches at once: while one is parsed or written others are computed."""

HIGHEST_SCORE = 1e9
"""Of a hypothesis, either sign."""

_READ_BYTES = 1 << 16


class InputError(ValueError):
    """A file that cannot be worked on; the message names the line and says what to do."""


class Item(NamedTuple):
    """A text, and the JSON record that it came in."""

    text: str
    record: dict[str, Any]


def read_batches(descriptor: int, field: str | None) -> Iterator[list[Item]]:
    """Batches of what has arrived: a slow pipe is answered line by line, a file 64 at a time.

    field: where a JSON object has its text. None: every line is a text. Input whose first line begins with "{" is
    JSONL, and its empty lines are passed over. Raises `InputError`.
    """
    is_jsonl: bool | None = None if field else False
    batch: list[Item] = []
    empty = 0  # lines before the first that shows which it is
    number = characters = 0
    for lines in _arriving_lines(descriptor):
        for line in lines:
            number += 1
            try:
                text = _decode(line, number)
                if is_jsonl is None and not text.strip():
                    empty += 1
                    continue
                if is_jsonl is None:
                    is_jsonl = text.lstrip().startswith("{")
                    batch += [] if is_jsonl else [Item("", {})] * empty
                if not is_jsonl:
                    batch.append(Item(text, {}))
                elif text.strip():
                    batch.append(_parse(text, field or "", number))
            except InputError:
                if batch:
                    yield batch
                raise
            characters += len(text)
            if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
                if batch:
                    yield batch
                batch, characters = [], 0
        if batch:
            yield batch
            batch, characters = [], 0
    if is_jsonl is None and empty:
        yield [Item("", {})] * empty


@dataclass
class NBestList:
    """Hypotheses of one utterance. record: the JSON object they came in; None: they came as lines."""

    texts: list[str]
    scores: list[float]
    reference: str | None
    record: dict[str, Any] | None


def read_nbest(descriptor: int, field: str, reference_field: str) -> Iterator[list[NBestList]]:
    """N-best lists, some together: JSON objects with a list of `{"text", "score"}` under `field`; or lines of text, tab
    and score with an empty line after each list. Raises `InputError`.
    """
    together: list[NBestList] = []
    for one in _nbest_lists(descriptor, field, reference_field):
        together.append(one)
        if sum(len(each.texts) for each in together) >= 4 * BATCH:
            yield together
            together = []
    if together:
        yield together


def _nbest_lists(descriptor: int, field: str, reference_field: str) -> Iterator[NBestList]:
    is_jsonl: bool | None = None
    texts: list[str] = []
    scores: list[float] = []
    lines = (line for lines in _arriving_lines(descriptor) for line in lines)
    for number, content in enumerate(lines, 1):
        line = _decode(content, number)
        if is_jsonl is None and line.strip():
            is_jsonl = line.lstrip().startswith("{")
        if is_jsonl and line.strip():
            yield _parse_nbest(line, field, reference_field, number)
        elif line.strip():
            text, tab, score = line.rpartition("\t")
            try:
                scores.append(_score(score))
            except ValueError:
                tab = ""
            if not tab:
                raise InputError(f"line {number}: not a text, a tab and a score")
            texts.append(text)
        elif texts:
            yield NBestList(texts, scores, None, None)
            texts, scores = [], []
    if texts:
        yield NBestList(texts, scores, None, None)


def _parse_nbest(line: str, field: str, reference_field: str, number: int) -> NBestList:
    record = _record(line, number, "")
    hypotheses, reference = record.get(field), record.get(reference_field)
    if not isinstance(hypotheses, list) or not hypotheses:
        raise InputError(f"line {number}: no list of hypotheses under {field!r}; name its field with --field")
    if reference is not None and not isinstance(reference, str):
        raise InputError(f"line {number}: {reference_field!r} is not a text")
    try:
        texts = [str(one["text"].encode(), "utf-8") for one in hypotheses]
        scores = [_score(one["score"]) for one in hypotheses]
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        raise InputError(f'line {number}: a hypothesis under {field!r} is not {{"text": …, "score": …}}') from None
    return NBestList(texts, scores, reference, record)


def _score(value: Any) -> float:
    """Raises `ValueError`, `TypeError` or `OverflowError`."""
    score = float(value)
    if not abs(score) <= HIGHEST_SCORE:
        raise ValueError("no log-probability")
    return score


def _arriving_lines(descriptor: int) -> Iterator[list[bytes]]:
    begun: list[bytes] = []  # pieces of a line whose end has not come
    while chunk := os.read(descriptor, _READ_BYTES):
        first, *lines = chunk.split(b"\n")
        begun.append(first)
        if lines:
            whole = b"".join(begun)
            begun = [lines.pop()]
            yield [whole, *lines]
    if any(begun):
        yield [b"".join(begun)]


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"line {number}: not UTF-8 (byte {error.start}); convert it, e.g. with iconv") from None


def _parse(line: str, field: str, number: int) -> Item:
    record = _record(line, number, "; --lines takes every line as text")
    text = record.get(field)
    if not isinstance(text, str):
        raise InputError(f"line {number}: no text under {field!r}; name its field with --field")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"line {number}: a lone surrogate is not text") from None
    return Item(text, record)


def _record(line: str, number: int, advice: str) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse_constant, parse_float=_parse_float)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number}: not JSON ({error}){advice}") from None
    return record if isinstance(record, dict) else {}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


async def in_order(
    batches: Iterable[list[Batch]], work: Callable[[list[Batch]], Coroutine[Any, Any, Result]]
) -> AsyncGenerator[tuple[list[Batch], Result]]:
    """Each batch with what `work` makes of it, in their order, several at once; read in a thread, so that neither a
    slow pipe nor a busy model waits for the other. An error of the reading comes after what was read before it. To be
    closed (`aclosing`) by who leaves early.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[list[Batch] | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(IN_FLIGHT)

    def tell(what: list[Batch] | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants more
            loop.call_soon_threadsafe(arrived.put_nowait, what)

    def read() -> None:
        end: Exception | None = None
        try:
            for batch in batches:
                room.acquire()
                tell(batch)
        except Exception as error:
            end = error
        tell(end)

    # A thread that may be left waiting for its input when Ctrl-C comes.
    threading.Thread(target=read, name="reading", daemon=True).start()
    working: deque[tuple[list[Batch], asyncio.Task[Result]]] = deque()
    coming: asyncio.Task[list[Batch] | Exception | None] | None = asyncio.create_task(arrived.get())
    end: list[Batch] | Exception | None = None
    try:
        while coming or working:
            waits: set[asyncio.Task[Any]] = {task for _, task in list(working)[:1]} | ({coming} if coming else set())
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if coming and coming.done():
                end = coming.result()
                coming = None
                if isinstance(end, list):
                    working.append((end, asyncio.create_task(work(end))))
                    coming = asyncio.create_task(arrived.get())
            while working and working[0][1].done():
                batch, task = working.popleft()
                yield batch, task.result()
                room.release()
    finally:  # whoever asked wants no more
        if coming:
            coming.cancel()
        for _, unwanted in working:
            unwanted.cancel()
        await asyncio.gather(*(task for _, task in working), return_exceptions=True)
    if isinstance(end, Exception):
        raise end


class ResumableFile:
    """Lines that become a file once all are there. Until then they stand in `.NAME.partial` beside it, below a line
    that says how they are made: who asks for the same again goes on after the last one that is whole.
    """

    def __init__(self, path: Path, made_by: dict[str, Any], restart: bool = False) -> None:
        """Raises `InputError` when there are lines that were made otherwise, or another command is writing them."""
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        header = json.dumps({"carousel": "partial", **made_by}).encode() + b"\n"
        self.kept = 0
        """Lines that were there."""
        self._file = self.partial.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(f"{self.partial}: another command is writing it") from None
        self._file.seek(0)
        first = self._file.readline()
        if restart or not first.endswith(b"\n"):
            self._file.truncate(0)
            self._file.write(header)
            self._file.flush()
            return
        if first != header:
            self._file.close()
            raise InputError(
                f"{self.partial} is what an interrupted command made with another model or other options: "
                "repeat that command to finish it, or give --restart to begin anew"
            )
        size = self._file.tell()
        for line in self._file:
            if line.endswith(b"\n"):
                size += len(line)
                self.kept += 1
        self._file.truncate(size)

    def write(self, lines: list[str]) -> None:
        """Add lines: in the operating system's hands when this returns."""
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()

    def lines(self) -> Iterator[str]:
        """All so far."""
        with self.partial.open("rb") as file:
            file.readline()
            for line in file:
                yield line.decode()[:-1]

    def finish(self, change: Callable[[str], str]) -> None:
        """Put every line, changed, into the file."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for line in self.lines():
                file.write(change(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self.partial.unlink()

    def __enter__(self) -> "ResumableFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Quantiles:
    """How a number between 0 and `HIGHEST` is distributed over any number of texts, to `WIDTH`, in constant memory."""

    WIDTH, HIGHEST = 1e-3, 64.0

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (int(self.HIGHEST / self.WIDTH) + 1)))

    def add(self, value: float) -> None:
        self._counts[int(min(max(value, 0.0), self.HIGHEST) / self.WIDTH)] += 1

    def below(self, share: float) -> float:
        """The least multiple of `WIDTH` that at least this share of the numbers is below; 0 where there are none."""
        wanted, seen = share * sum(self._counts), 0
        for place, count in enumerate(self._counts):
            if seen >= wanted:
                return place * self.WIDTH
            seen += count
        return self.HIGHEST


def to_json(values: dict[str, Any]) -> str:
    """One line of UTF-8; escaped where a record holds what is no text."""
    line = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(values, allow_nan=False)
    return line


def bucket_of(value: float, low: float, high: float) -> Bucket:
    return "head" if value < low else "middle" if value < high else "tail"


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


def count_lines(path: Path) -> int:
    """Lines of a file, for a progress bar."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
