"""Who runs next: rows for those that wait, chunks of prompt for those that have some. Integers alone; no tensors."""

from collections import Counter, deque
from dataclasses import dataclass

from app.engine.sequence import Request, Sequence

MAX_CHUNK = 64
"""Most prompt tokens of one sequence in one pass; chunks end at its multiples, where states are cached."""


TURN_SECONDS = 1.0
"""How long a sequence may keep its row while others wait: few need longer."""


@dataclass(eq=False)
class Row:
    """A sequence that holds one of the engine's rows. since: when it got it, of `time.monotonic`."""

    request: Request
    sequence: Sequence
    since: float = 0.0

    @property
    def index(self) -> int:
        return self.sequence.index


class Scheduler:
    """Requests that wait and rows that run.

    Requests take turns, in two ways: none holds more than a quarter of the rows, so that one that asks for a thousand
    texts leaves room for others; and the prompt tokens of a step go first to the requests served longest ago.

    A state has one size however long the text, so there is nothing to page or evict. A sequence keeps its row to its
    end, or, where others wait for one, for `TURN_SECONDS`; then its state is put aside until its next turn.
    """

    def __init__(self, max_rows: int, prompt_tokens_per_step: int, longest_feed: int = 0) -> None:
        """longest_feed: most inputs that a sequence may leave to be run when it draws."""
        self._longest_feed = longest_feed
        self._prompt_tokens_per_step = prompt_tokens_per_step
        self._free_slots = list(range(max_rows))
        self._rows_per_request = max(1, max_rows // 4)
        self._step = 0
        self._waiting: deque[Request] = deque()
        self.running: list[Row] = []

    @property
    def waiting(self) -> int:
        """Sequences without a row."""
        return sum(len(request.waiting) for request in self._waiting)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do: nobody waits but those whose readers lag."""
        return not self.running and all(request.lags and not request.over for request in self._waiting)

    @property
    def empty(self) -> bool:
        """Whether nobody is there at all."""
        return not self.running and not self._waiting

    def requests(self) -> list[Request]:
        """Every request held, each once."""
        return list(dict.fromkeys([*(row.request for row in self.running), *self._waiting]))

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def park(self, now: float) -> list[Row]:
        """Take rows from those whose reader lags; and from those that have had them for a turn, the longest first,
        while as many sequences wait that may have them. What they hold is to be put aside before `admit` gives their
        slots away."""
        parked = [row for row in self.running if row.request.lags and not row.sequence.finished]
        wanted = sum(len(request.waiting) for request in self._waiting if self._may_have_more(request))
        wanted -= len(self._free_slots) + len(parked)
        if wanted > 0:
            had_a_turn = [
                row
                for row in self.running
                if now - row.since > TURN_SECONDS and not row.request.lags and not row.sequence.finished
            ]
            parked += sorted(had_a_turn, key=lambda row: row.since)[:wanted]
        self._free(parked)
        for row in parked:
            row.request.waiting.append(row.sequence)
            if row.request not in self._waiting:
                self._waiting.append(row.request)
        return parked

    def admit(self, now: float = 0.0) -> list[Row]:
        """Give free rows to waiting sequences, one for each request in turn."""
        admitted = []
        full: list[Request] = []  # requests that are to have no more rows now
        while self._free_slots and self._waiting:
            request = self._waiting.popleft()
            if not self._may_have_more(request):
                full.append(request)
                continue
            row = Row(request, request.waiting.popleft(), now)
            row.sequence.slot = self._free_slots.pop()
            request.rows += 1
            admitted.append(row)
            if request.waiting:
                self._waiting.append(request)
        self._waiting.extendleft(reversed(full))
        self.running += admitted
        return admitted

    def _may_have_more(self, request: Request) -> bool:
        return request.rows < self._rows_per_request and not request.lags

    def prompt_chunks(self) -> list[tuple[Row, int]]:
        """(row, how many of its inputs to consume), the most first, within the budget of one step.

        Each request's first row comes before any request's second; among them, who was served longest ago. A row whose
        last inputs `rides` runs these when it draws.
        """
        self._step += 1
        budget = self._prompt_tokens_per_step
        places: Counter[Request] = Counter()
        queue: list[tuple[int, int, Row]] = []
        for row in self.running:
            if row.sequence.pending and not row.sequence.rides(self._longest_feed):
                queue.append((places[row.request], row.request.served_at, row))
                places[row.request] += 1
        chunks = []
        for *_, row in sorted(queue, key=lambda item: item[:2]):
            if budget <= 0:
                break
            length = min(MAX_CHUNK - row.sequence.consumed % MAX_CHUNK, row.sequence.pending, budget)
            chunks.append((row, length))
            row.request.served_at = self._step
            budget -= length
        return sorted(chunks, key=lambda chunk: -chunk[1])

    def drop(self, finished: list[Row]) -> None:
        """Free the rows of finished sequences; what was waiting for one of them now waits for a row."""
        for row in finished:
            if row.request.release_children(row.sequence) and row.request not in self._waiting:
                self._waiting.append(row.request)
        self._free(finished)

    def drop_request(self, request: Request) -> None:
        """Free the rows of a request and forget what of it waits."""
        if request in self._waiting:
            self._waiting.remove(request)
        self._free([row for row in self.running if row.request is request])

    def _free(self, rows: list[Row]) -> None:
        for row in rows:
            self._free_slots.append(row.sequence.slot)
            row.request.rows -= 1
        if rows:
            gone = set(map(id, rows))
            self.running = [row for row in self.running if id(row) not in gone]
