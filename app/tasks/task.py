"""What a task of the service is: a path, bodies, limits and a function that answers. No HTTP."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from app.deadline import Deadline
from app.errors import at_most
from app.registry import ServedModel
from app.settings import Settings
from app.tasks.beside import UNLIMITED, Workers

Request = TypeVar("Request", bound=BaseModel)

Response = TypeVar("Response", bound=BaseModel)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Call:
    """What a request is answered with: the model, the limits of the server, the time that is left.

    owner: name of the key that the request bears. Nothing that is kept between requests is shared between owners, so
    that neither an answer nor its time tells an owner what another has sent.
    """

    served: ServedModel
    settings: Settings
    deadline: Deadline
    owner: str = ""
    workers: Workers = UNLIMITED

    async def beside(self, characters: int, work: Callable[[], Result]) -> Result:
        """Do work that grows with so many characters without keeping others waiting: see `Workers.do`."""
        return await self.workers.do(characters, work, self.deadline)

    async def run(self, sequences: Sequence[Any]) -> None:
        """Let the engine work on sequences until all are finished."""
        await self.served.engine.run(sequences, self.deadline, self.owner)


@dataclass(frozen=True)
class Limit:
    """A field of a body that a setting limits.

    field: its name; `stop.*` stands for each item of `stop`. setting: the largest value, or length of a list, a text or
    an object. what: the unit, for the message; a list has one. value: what is compared where it is not the field
    itself; None passes.
    """

    field: str
    setting: str
    what: str = ""
    value: Callable[[Any], float | None] | None = None

    def check(self, body: BaseModel, settings: Settings) -> None:
        """Raises `InvalidValueError`, naming field, value and limit."""
        limit = getattr(settings, self.setting)
        for param, value in self._measured(body):
            if value is not None:
                at_most(param, value, limit, self.what)

    def check_length(self, content: dict[str, Any], settings: Settings) -> None:
        """As `check`, of JSON that nothing else has looked at: only how many a list or an object holds."""
        if self.what and self.value is None and isinstance(value := content.get(self.field), list | dict):
            at_most(self.field, len(value), getattr(settings, self.setting), self.what)

    def _measured(self, body: BaseModel) -> Iterator[tuple[str, float | None]]:
        if self.value is not None:
            yield self.field, self.value(body)
        elif self.field.endswith(".*"):
            name = self.field.removesuffix(".*")
            for place, item in enumerate(getattr(body, name)):
                yield f"{name}.{place}", _size(item)
        else:
            yield self.field, _size(getattr(body, self.field))


def _size(value: Any) -> float | None:
    return len(value) if isinstance(value, Sized) else value


TIMEOUT = Limit("timeout_seconds", "timeout_seconds")


@dataclass(frozen=True)
class Stream(Generic[Request]):
    """How a task answers a body whose `stream` is true.

    events: makes the events, those that came together in one list. kinds, meaning: for the API reference.
    """

    events: Callable[[Request, Call], AsyncGenerator[list[BaseModel]]]
    kinds: tuple[type[BaseModel], ...]
    meaning: str


@dataclass(frozen=True)
class Task(Generic[Request, Response]):
    """One task of the service.

    kind: the task that a checkpoint must be made for. rules: what else is wrong with a body, for this model; raises
    `InvalidValueError`. characters: roughly, of an answer in JSON, where that may be many.
    """

    path: str
    summary: str
    kind: str
    request: type[Request]
    response: type[Response]
    limits: tuple[Limit, ...]
    answer: Callable[[Request, Call], Awaitable[Response]]
    rules: Callable[[Request, ServedModel], None] = lambda _body, _served: None
    stream: Stream[Request] | None = None
    characters: Callable[[Response], int] = lambda _answer: 0

    def check(self, body: Request, call: Call) -> None:
        """Raises `InvalidValueError` when a value is above a limit of the server or unfit for the model."""
        for limit in self.limits:
            limit.check(body, call.settings)
        self.rules(body, call.served)
