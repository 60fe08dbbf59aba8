"""The models that are served, each with the engine that runs it, and the default of each task."""

import logging
from dataclasses import dataclass, field
from functools import cached_property

from app.catalog import Catalog, Refused, StartupError
from app.engine.engine import Engine
from app.engine.runner import Runner
from app.errors import UnknownModelError, WrongTaskError, shown
from app.metrics import Metrics
from app.settings import Settings
from models.backends.load import gpu_available, load_inference
from models.checkpoint.format import Checkpoint
from models.process import cores
from models.words.next_words import WordIndex, WordPieces

logger = logging.getLogger("carousel")

LANGUAGE_MODEL = "language_model"
"""The task of checkpoints that say nothing else."""


@dataclass
class ServedModel:
    """A checkpoint and the engine that runs it."""

    checkpoint: Checkpoint
    engine: Engine

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def task(self) -> str:
        """What the model is made for."""
        return str(getattr(self.checkpoint, "task", LANGUAGE_MODEL))

    @cached_property
    def words(self) -> WordIndex:
        return WordIndex(self.checkpoint.tokenizer)

    @cached_property
    def pieces(self) -> WordPieces:
        return WordPieces(self.checkpoint.tokenizer)


@dataclass
class Registry:
    """Served models by name, and the checkpoints that were refused.

    default: name of the model for requests that name no model, of the task that it is made for; of another task the
    default is the first model by name.
    """

    default: str
    models: dict[str, ServedModel]
    refused: list[Refused] = field(default_factory=list)

    def find(self, name: str | None, task: str = LANGUAGE_MODEL) -> ServedModel:
        """The model of that name, or the default of a task. Raises `UnknownModelError` or `WrongTaskError`."""
        if name is None:
            name = self._default_of(task)
        elif name not in self.models:
            known = ", ".join(self.models)
            raise UnknownModelError(f"model: no model is called {shown(name)}; served models: {known}", "model")
        if name is None or self.models[name].task != task:
            raise WrongTaskError(name, task, self._able(task))
        return self.models[name]

    def is_default(self, model: ServedModel) -> bool:
        return model.name == self._default_of(model.task)

    def start(self) -> None:
        for model in self.models.values():
            model.engine.start()

    def stop(self) -> None:
        for model in self.models.values():
            model.engine.stop()

    def _default_of(self, task: str) -> str | None:
        able = self._able(task)
        return self.default if self.default in able else next(iter(able), None)

    def _able(self, task: str) -> list[str]:
        """Names of the models that are made for a task."""
        return [name for name, model in self.models.items() if model.task == task]


def load_registry(settings: Settings, metrics: Metrics) -> Registry:
    """Load every checkpoint of the folder. Raises `StartupError` when the default model cannot be served."""
    catalog, device = Catalog(settings), _prepare(settings)
    registry = Registry(catalog.default, {})
    for found in catalog.load_all():
        if isinstance(found, Refused):
            registry.refused.append(found)
            continue
        served = ServedModel(found, _engine(found, device, settings, metrics))
        registry.models[found.name] = served
        logger.info("loaded %s: %d parameters, %s", found.name, found.config.num_parameters, served.engine.backend)
    if catalog.default not in registry.models:
        reasons = (str(refused.error) for refused in registry.refused if refused.name == catalog.default)
        reason = next(reasons, f"no such folder in {catalog.folder}")
        raise StartupError(f"the default model {catalog.default!r} cannot be served: {reason}")
    return registry


def load_model(settings: Settings, name: str | None, metrics: Metrics, task: str = LANGUAGE_MODEL) -> ServedModel:
    """Load one model, the default model when no name is passed.

    Raises `UnknownModelError`, `WrongTaskError` or `StartupError`.
    """
    catalog, device = Catalog(settings), _prepare(settings)
    checkpoint = catalog.load(name or catalog.default)
    served = ServedModel(checkpoint, _engine(checkpoint, device, settings, metrics))
    if served.task != task:
        raise WrongTaskError(served.name, task, [])
    return served


def _prepare(settings: Settings) -> str:
    """The device that networks run on. Raises `StartupError` where it is missing."""
    if settings.device == "auto":
        return "cuda" if gpu_available() else "cpu"
    if settings.device == "cuda" and not gpu_available():
        raise StartupError("CAROUSEL_DEVICE is cuda, but torch finds no GPU; use auto or cpu")
    return settings.device


def _engine(checkpoint: Checkpoint, device: str, settings: Settings, metrics: Metrics) -> Engine:
    number_type = None if settings.dtype == "auto" else settings.dtype
    try:
        network = load_inference(
            checkpoint.config, checkpoint.weights(), device, number_type, settings.threads or cores()
        )
    except ValueError as error:
        raise StartupError(f"CAROUSEL_DTYPE: {error}") from None
    return Engine(
        checkpoint.name,
        Runner(network, checkpoint.config, settings.max_rows),
        metrics,
        settings.max_rows,
        settings.max_requests,
        settings.prompt_tokens_per_step,
        settings.prefix_cache_bytes,
    )
