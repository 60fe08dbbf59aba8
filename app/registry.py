"""The models that are served: which one answers a request, and which versions of it are there."""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from app.catalog import Catalog, Refused, StartupError
from app.deadline import Deadline
from app.engine.engine import Engine
from app.engine.runner import Runner
from app.engine.sequence import Sequence
from app.errors import InvalidValueError, UnavailableError, UnknownModelError, WrongTaskError, shown
from app.keys import Key
from app.metrics import Metrics
from app.settings import Settings
from models.backends.load import gpu_available, load_inference
from models.checkpoint.format import Checkpoint, CheckpointError, Description, describe, load_checkpoint, refusing
from models.process import cores
from models.text.words import one_line
from models.words.next_words import WordIndex, WordPieces

logger = logging.getLogger("carousel")

LANGUAGE_MODEL = "language_model"
"""The task of checkpoints that say nothing else."""

TRIAL_SECONDS = 60.0
"""A model that takes longer than this for a first answer is not served."""

MOST_OLD = 4
"""Versions of a model that are kept beside the one that is served, so that many changes in a row do not fill memory."""


@dataclass(eq=False)
class ServedModel:
    """A checkpoint and the engine that runs it.

    users: how many requests work with it. used_at: when the last of them ended, of `time.monotonic`.
    """

    checkpoint: Checkpoint
    engine: Engine
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def task(self) -> str:
        """What the model is made for."""
        return self.checkpoint.task

    @property
    def version(self) -> str:
        return self.checkpoint.version

    @cached_property
    def words(self) -> WordIndex:
        return WordIndex(self.checkpoint.tokenizer)

    @cached_property
    def pieces(self) -> WordPieces:
        return WordPieces(self.checkpoint.tokenizer)

    def take(self) -> None:
        """A request begins to work with it."""
        self.users += 1

    def give_back(self) -> None:
        """A request has ended."""
        self.users -= 1
        self.used_at = time.monotonic()

    async def try_out(self) -> None:
        """Ask for a first answer. Raises `CheckpointError` where it is none."""
        first = Sequence([self.checkpoint.tokenizer.eos_id], keep_logprobs=True)
        try:
            await self.engine.run([first], Deadline.after(TRIAL_SECONDS))
        except Exception as error:
            raise CheckpointError(Path(self.name), f"does not answer ({error})") from None


@dataclass(eq=False)
class Entry:
    """A model by its name: what is on disk, the version that is served, and those before it that are still in use.

    current: None while it is not loaded. past: versions that were served and are no longer kept.
    """

    name: str
    path: Path
    description: Description
    current: ServedModel | None = None
    old: list[ServedModel] = field(default_factory=list)
    past: set[str] = field(default_factory=set)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def task(self) -> str:
        return self.description.task

    def of_version(self, tag: bytes) -> ServedModel | None:
        """The version whose states begin so; None: none that is kept. Raises `InvalidValueError` for a past one."""
        kept = [self.current, *self.old] if self.current else self.old
        for served in kept:
            if bytes.fromhex(served.version).startswith(tag):
                return served
        if any(bytes.fromhex(version).startswith(tag) for version in self.past):
            error = InvalidValueError("state: is of a version of the model that is no longer served", "state")
            error.code = "state_of_old_version"
            raise error
        return None


class Registry:
    """The served models by name, and the checkpoints that were refused. Used on the event loop alone.

    default: name of the model for requests that name no model, of the task that it is made for; of another task the
    default is the first model by name.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Loads every checkpoint of the folder; where `models_bytes` limits them, the default model alone.

        Raises `StartupError` when the default model cannot be served.
        """
        self._settings = settings
        self._metrics = metrics
        self._device = _device(settings)
        catalog = Catalog(settings)
        self.default = catalog.default
        self.entries: dict[str, Entry] = {}
        self.leaving: list[Entry] = []
        """Models whose folders are gone, while requests use them."""
        self.refused: list[Refused] = []
        self.draining = False
        """Whether the server is about to end, and takes no more requests."""
        for name, path in catalog.paths.items():
            self._add(name, path)
        if self.default not in self.entries:
            reasons = (str(refused.error) for refused in self.refused if refused.name == self.default)
            reason = next(reasons, f"no such folder in {catalog.folder}")
            raise StartupError(f"the default model {self.default!r} cannot be served: {reason}")

    def _add(self, name: str, path: Path) -> None:
        try:
            entry = Entry(name, path, describe(path))
            if self._settings.models_bytes is None or name == self.default:
                entry.current = self.build(path)
            self.entries[name] = entry
        except CheckpointError as error:
            self.refuse(name, error)

    def refuse(self, name: str, error: CheckpointError) -> Refused:
        """A checkpoint is not served."""
        refused = Refused(one_line(name), error)
        logger.error("refused checkpoint %s: %s", refused.name, error)
        self.refused.append(refused)
        return refused

    def build(self, path: Path) -> ServedModel:
        """A model of a checkpoint, its engine not started. Raises `CheckpointError`."""
        checkpoint = load_checkpoint(path)
        with refusing(path):
            try:
                served = make_served(checkpoint, self._device, self._settings, self._metrics)
            except StartupError as error:  # of this network alone: others have the number type that is wanted
                raise CheckpointError(path, str(error)) from None
        checkpoint.let_go()
        logger.info(
            "loaded %s: %d parameters, %s", checkpoint.name, checkpoint.config.num_parameters, served.engine.backend
        )
        return served

    # -- which model answers ---------------------------------------------------------------------------------------

    async def find(
        self, name: str | None, task: str = LANGUAGE_MODEL, key: Key | None = None, state: bytes | None = None
    ) -> ServedModel:
        """The model of that name, or the default of a task, loaded where it is not yet.

        key: whose models are looked at; None: all. state: as `SavedState.version_of` a state that is brought along: it
        is answered by the version that made it.
        Raises `UnknownModelError`, `WrongTaskError`, `InvalidValueError`, or `UnavailableError` where it cannot be had.
        """
        entry = self.entry(name, task, key)
        if self.draining:
            raise UnavailableError("the server is shutting down")
        made_by = entry.of_version(state) if state is not None else None
        return made_by or entry.current or await self.load(entry)

    def entry(self, name: str | None, task: str | None = LANGUAGE_MODEL, key: Key | None = None) -> Entry:
        """What `find` takes, not loaded. task: None: any."""
        known = self.visible(key)
        if name is None:
            name = self.default_of(task or LANGUAGE_MODEL, key)
        elif name not in known:
            raise UnknownModelError(
                f"model: no model is called {shown(name)}; served models: {', '.join(known)}", "model"
            )
        if name is None or (task is not None and known[name].task != task):
            task = task or LANGUAGE_MODEL
            raise WrongTaskError(name, task, [other for other, entry in known.items() if entry.task == task])
        return known[name]

    def visible(self, key: Key | None) -> dict[str, Entry]:
        """The models that a key may ask, by name."""
        return {name: entry for name, entry in self.entries.items() if key is None or key.may_ask(name)}

    def default_of(self, task: str, key: Key | None = None) -> str | None:
        able = [name for name, entry in self.visible(key).items() if entry.task == task]
        return self.default if self.default in able else next(iter(able), None)

    async def load(self, entry: Entry) -> ServedModel:
        """Load a model at its first use; another may have to be let go for it."""
        async with entry.loading:
            if entry.current is None:
                try:
                    entry.current = await self.start_version(entry.path)
                except CheckpointError as error:
                    logger.exception("%s cannot be loaded", entry.name)
                    raise UnavailableError(f"model: {entry.name} cannot be loaded: {error.reason}", "model") from None
            served = entry.current
            served.used_at = time.monotonic()
        self.make_room(served)
        return served

    async def start_version(self, path: Path) -> ServedModel:
        """A model of a checkpoint that has given a first answer. Raises `CheckpointError`."""
        served = await asyncio.to_thread(self.build, path)
        served.engine.start()
        try:
            await served.try_out()
        except CheckpointError:
            await asyncio.to_thread(served.engine.stop)
            raise
        return served

    def make_room(self, needed: ServedModel) -> None:
        """Let go those used longest ago until the rest fits into `models_bytes`; neither the default nor one in use."""
        limit = self._settings.models_bytes
        if limit is None:
            return
        loaded = [entry for entry in self.entries.values() if entry.current]
        idle = [e for e in loaded if e.current and not e.current.users and e.name != self.default]
        total = sum(served.engine.bytes for served in self.loaded())
        for entry in sorted(idle, key=lambda e: e.current.used_at if e.current else 0.0):
            if total <= limit:
                break
            if entry.current is not None and entry.current is not needed:
                total -= entry.current.engine.bytes
                logger.info("let go %s: others are asked for", entry.name)
                _stop_beside(entry.current.engine)
                entry.current = None

    # -- all of them -----------------------------------------------------------------------------------------------

    def loaded(self) -> Iterator[ServedModel]:
        """Every version that is in memory."""
        for entry in (*self.entries.values(), *self.leaving):
            yield from ([entry.current] if entry.current else [])
            yield from entry.old

    @property
    def fault(self) -> str | None:
        """Why the server cannot go on; None: it can."""
        return next((fault for served in self.loaded() if (fault := served.engine.fault)), None)

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return any(served.users for served in self.loaded())

    def only(self) -> ServedModel | None:
        """The model that every request is for, whatever it says; None where there are several, or versions of one."""
        if self.draining or len(self.entries) > 1 or self.leaving:
            return None
        (entry,) = self.entries.values()
        return None if entry.old else entry.current

    def start(self) -> None:
        for served in self.loaded():
            served.engine.start()

    def stop(self) -> None:
        self.draining = True
        for served in list(self.loaded()):
            served.engine.stop()


def _stop_beside(engine: Engine) -> None:
    """Its thread is idle, so that it ends at once."""
    asyncio.get_running_loop().run_in_executor(None, engine.stop)


def load_model(settings: Settings, name: str | None, metrics: Metrics, task: str = LANGUAGE_MODEL) -> ServedModel:
    """Load one model, the default model when no name is passed.

    Raises `UnknownModelError`, `WrongTaskError` or `StartupError`.
    """
    catalog, device = Catalog(settings), _device(settings)
    served = make_served(catalog.load(name or catalog.default), device, settings, metrics)
    if served.task != task:
        raise WrongTaskError(served.name, task, [])
    return served


def _device(settings: Settings) -> str:
    """The device that networks run on. Raises `StartupError` where it is missing."""
    if settings.device == "auto":
        return "cuda" if gpu_available() else "cpu"
    if settings.device == "cuda" and not gpu_available():
        raise StartupError("CAROUSEL_DEVICE is cuda, but torch finds no GPU; use auto or cpu")
    return settings.device


def make_served(checkpoint: Checkpoint, device: str, settings: Settings, metrics: Metrics) -> ServedModel:
    """A checkpoint with an engine, not started. Raises `StartupError` where the number type cannot be had."""
    number_type = None if settings.dtype == "auto" else settings.dtype
    try:
        network = load_inference(
            checkpoint.config, checkpoint.weights(), device, number_type, settings.threads or cores()
        )
    except ValueError as error:
        raise StartupError(f"CAROUSEL_DTYPE: {error}") from None
    engine = Engine(
        checkpoint.name,
        Runner(network, checkpoint.config, settings.max_rows),
        metrics,
        settings.max_rows,
        settings.max_requests,
        settings.prompt_tokens_per_step,
        settings.prefix_cache_bytes,
    )
    return ServedModel(checkpoint, engine)
