"""A language model in this process: the tasks of the server as methods that may be called from any thread.

Each call is answered by the task's own `answer` in app/tasks, on an event loop in a thread of the model, by the engine
that serves HTTP: the numbers are those of the server, bit for bit, and calls from several threads share batches.
"""

import os
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack

from pydantic import BaseModel, ValidationError

from app.catalog import StartupError
from app.deadline import Deadline
from app.engine import sequence as engine
from app.engine.engine import Engine
from app.errors import InvalidValueError, ServiceError, UnavailableError, UnknownModelError, validation_error
from app.metrics import Metrics
from app.registry import ServedModel, load_model
from app.settings import Settings
from app.tasks import generate, next, rescore, score  # noqa: A004 — named after the route
from app.tasks.generate import Choice, GenerateRequest, GenerateResponse, StreamedText, StreamEnd
from app.tasks.next import NextRequest, NextResponse, NextWord
from app.tasks.rescore import RescoredHypothesis, RescoreRequest, RescoreResponse
from app.tasks.score import Score, ScoreRequest, ScoreResponse
from app.tasks.task import Call, Task
from carousel.included import find_model, included_models
from carousel.options import GenerateOptions
from carousel.worker import Worker
from models.text.tokenizer import Tokenizer

Item = TypeVar("Item")
Response = TypeVar("Response", bound=BaseModel)
Request = TypeVar("Request", bound=BaseModel)
Body = TypeVar("Body", bound=BaseModel)

Error = ServiceError
"""Whatever goes wrong; see app/errors.py. param: the argument that is to blame, or None."""

State = str
"""What a model has read, as an answer gives it: an opaque string, for the weights that made it. See docs/api.md."""

NumberType = Literal["float32", "bfloat16", "int8"]
Device = Literal["auto", "cpu", "cuda"]
Hypothesis = tuple[str, float] | Mapping[str, Any]


class Answer(list[Item], Generic[Item, Response]):
    """The items of an answer, as a list. response: the whole answer, with the fields that belong to no one item."""

    def __init__(self, items: Iterable[Item], response: Response) -> None:
        super().__init__(items)
        self.response = response


def load(
    name_or_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    dtype: NumberType | None = None,
    device: Device = "cpu",
) -> "LanguageModel":
    """Load an included model by its name, or any by the path of its folder. A name with a slash is a path.

    threads: of one step of the network; all cores unless given. dtype: number type of the weights; the fastest here
    that keeps the quality unless given. Environment variables have no effect.
    Raises `Error`, which names the included models where there is no such one.
    """
    path = find_model(name_or_path)
    if path is None:
        included = ", ".join(included_models())
        raise UnknownModelError(
            f"{os.fspath(name_or_path)!r} is neither an included model ({included}) nor the folder of a checkpoint",
            "name_or_path",
        )
    if threads is not None and threads < 1:
        raise InvalidValueError(f"threads: {threads} is less than 1", "threads")
    settings = _settings(checkpoints=path.parent, device=device, dtype=dtype or "auto", threads=threads)
    try:
        served = load_model(settings, path.name, Metrics())
    except StartupError as error:
        raise InvalidValueError(str(error), "name_or_path") from None
    return LanguageModel(served, settings)


def _settings(**given: Any) -> Settings:
    """Settings that read no environment, and without the limits that protect a server from its clients."""
    limited = [name for name in Settings.model_fields if name.startswith("max_") and name != "max_rows"]
    unlimited: dict[str, Any] = dict.fromkeys([*limited, "timeout_seconds"], 1 << 40)
    return Settings.model_construct(**unlimited, **given)


class LanguageModel:
    """A loaded model. Its methods may be called from any thread, also at once; they return when the answer is there.

    Numbers are natural logarithms, in nats; fields are those of the HTTP API (docs/api.md). Every method raises `Error`
    with `.param`, the name of the argument that is to blame, or None. `close` frees the threads and the weights'
    memory; so does the end of a `with` block. A forked child has to load its own.
    """

    def __init__(self, served: ServedModel, settings: Settings) -> None:
        self.name = served.name
        self.backend = served.engine.backend
        """Device and number type, as `cpu-int8`."""
        self._open: ServedModel | None = served
        self._settings = settings
        self._worker = Worker(f"carousel-{served.name}")
        self._finish = weakref.finalize(self, _finish, served.engine, self._worker)
        served.engine.start()

    @property
    def _served(self) -> ServedModel:
        if self._open is None:
            raise UnavailableError("the model is closed")
        return self._open

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into token ids and back."""
        return self._served.checkpoint.tokenizer

    def __repr__(self) -> str:
        return f"<carousel.LanguageModel {self.name!r}, {self.backend}>"

    def close(self) -> None:
        """Free the threads. Calls that are under way, and later ones, raise `Error`. May be called again."""
        self._open = None
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def score(
        self,
        texts: str | Sequence[str],
        *,
        bos: bool = True,
        eos: bool = True,
        context: str | None = None,
        tokens: bool = False,
        top: int = 0,
        words: bool = False,
        state: State | None = None,
        return_state: bool = False,
    ) -> Answer[Score, ScoreResponse]:
        """How probable texts are: a `Score` for each, in their order, in one pass; beginnings they share are run once.

        bos: they start a sentence. eos: their end is predicted, and counts. context: text before each, not scored.
        tokens, top: report each token, with that many alternatives. words: report the surprisal of each word.
        """
        body = _body(
            ScoreRequest,
            text=_listed(texts),
            bos=bos,
            eos=eos,
            context=context,
            tokens=tokens,
            top=top,
            words=words,
            state=state,
            return_state=return_state,
        )
        answer = self._answer(score.TASK, body)
        return Answer(answer.scores, answer)

    def next(
        self,
        text: str,
        *,
        top: int = 10,
        punctuation: bool = False,
        state: State | None = None,
        return_state: bool = False,
    ) -> Answer[NextWord, NextResponse]:
        """The likeliest next words; of a text that ends inside a word, its completions."""
        body = _body(NextRequest, text=text, top=top, punctuation=punctuation, state=state, return_state=return_state)
        answer = self._answer(next.TASK, body)
        return Answer(answer.words, answer)

    def generate(
        self, prompt: str | Sequence[str] = "", **options: Unpack[GenerateOptions]
    ) -> Answer[Choice, GenerateResponse]:
        """Continue a text, or several in one pass: `n` choices of each, `index = prompt_index * n + choice`."""
        answer = self._answer(generate.TASK, _generate_body(prompt, options))
        return Answer(answer.choices, answer)

    def stream(
        self, prompt: str | Sequence[str] = "", **options: Unpack[GenerateOptions]
    ) -> Generator[StreamedText, None, StreamEnd]:
        """The same as it comes: a piece for each token. Leaving the loop early cancels the rest. The generator's value
        (of `yield from`) has usage and seed."""
        body = _generate_body(prompt, options)
        call = self._call(body.timeout_seconds)
        generate.TASK.check(body, call)
        for events in self._worker.iterate(partial(generate.stream, body, call)):
            for event in events:
                if isinstance(event, StreamEnd):
                    return event
                assert isinstance(event, StreamedText)
                yield event
        raise AssertionError("a stream ends with its usage")

    def rescore(
        self,
        hypotheses: Sequence[Hypothesis],
        *,
        weight: float = 0.5,
        length_weight: float = 0.0,
        bos: bool = True,
        eos: bool = True,
        lowercase: bool = False,
    ) -> Answer[RescoredHypothesis, RescoreResponse]:
        """An n-best list, best first by score + weight * logprob + length_weight * words.

        hypotheses: pairs of text and score, or mappings with these two keys.
        """
        body = _body(
            RescoreRequest,
            hypotheses=[_hypothesis(one) for one in hypotheses],
            weight=weight,
            length_weight=length_weight,
            bos=bos,
            eos=eos,
            lowercase=lowercase,
        )
        answer = self._answer(rescore.TASK, body)
        return Answer(answer.hypotheses, answer)

    def state(self, text: str, *, state: State | None = None) -> State:
        """What there is to know of a text that has been read, after `state` if that is given: for the argument `state`
        of the other methods, here or in any process that loads the same weights, and of the HTTP API."""
        (choice,) = self.generate(text, max_tokens=0, state=state, return_state=True)
        assert choice.state is not None
        return choice.state

    def run(self, sequences: list[engine.Sequence]) -> None:
        """Let the engine work on sequences until all are finished; for what no task answers, as `carousel.kenlm`."""
        self._worker.run(partial(self._served.engine.run, sequences, self._call().deadline))

    def _answer(self, task: Task[Request, Response], body: Request) -> Response:
        call = self._call(getattr(body, "timeout_seconds", None))
        task.check(body, call)

        async def answer() -> Response:
            return await task.answer(body, call)

        return self._worker.run(answer)

    def _call(self, timeout_seconds: float | None = None) -> Call:
        timeout = timeout_seconds or self._settings.timeout_seconds
        return Call(self._served, self._settings, Deadline.after(timeout))


def _generate_body(prompt: str | Sequence[str], options: GenerateOptions) -> GenerateRequest:
    values: dict[str, Any] = dict(options)
    if "stop" in values:
        values["stop"] = _listed(values["stop"])
    return _body(GenerateRequest, prompt=_listed(prompt), **values)


def _finish(engine: Engine, worker: Worker) -> None:
    """What is under way is told by the engine that it has stopped, before the loop that would hear of it ends."""
    engine.stop()
    worker.close()


def _body(kind: type[Body], **values: Any) -> Body:
    """A request body of arguments. Raises `Error`."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise validation_error([dict(e) for e in error.errors(include_url=False)], values) from None


def _listed(texts: Any) -> Any:
    """Any sequence of texts as the list that a body takes."""
    return list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else texts


def _hypothesis(one: Hypothesis) -> Any:
    return dict(zip(("text", "score"), one, strict=True)) if isinstance(one, tuple) else one
