"""The models that are served: every checkpoint that loads, one of them the default."""

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from app.engine.engine import Engine
from app.engine.runner import Runner
from app.errors import UnknownModelError, shown
from app.metrics import Metrics
from app.settings import Settings
from models.backends.load import gpu_available, load_inference
from models.checkpoint.format import Checkpoint, CheckpointError, find_checkpoints, load_checkpoint
from models.process import cores
from models.words.next_words import WordIndex, WordPieces

logger = logging.getLogger("carousel")

PREFERRED_DEFAULT = "english-word"


class StartupError(RuntimeError):
    """The server cannot start; the message says what to do."""


@dataclass
class ServedModel:
    """A checkpoint and the engine that runs it."""

    checkpoint: Checkpoint
    engine: Engine

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @cached_property
    def words(self) -> WordIndex:
        return WordIndex(self.checkpoint.tokenizer)

    @cached_property
    def pieces(self) -> WordPieces:
        return WordPieces(self.checkpoint.tokenizer)


@dataclass
class Registry:
    """Served models by name, and the checkpoints that were refused."""

    default: str
    models: dict[str, ServedModel]
    refused: list[CheckpointError] = field(default_factory=list)

    def find(self, name: str | None) -> ServedModel:
        """The model of that name; None is the default. Raises `UnknownModelError`."""
        if name is None:
            return self.models[self.default]
        if name not in self.models:
            known = ", ".join(self.models)
            raise UnknownModelError(f"model: there is no {shown(name)}; served are {known}", "model")
        return self.models[name]

    def start(self) -> None:
        for model in self.models.values():
            model.engine.start()

    def stop(self) -> None:
        for model in self.models.values():
            model.engine.stop()


def load_registry(settings: Settings, metrics: Metrics) -> Registry:
    """Load every checkpoint of the folder. Raises `StartupError` when there is no default model to serve."""
    device, found = _prepare(settings)
    default = settings.default_model or _preferred(found)
    models: dict[str, ServedModel] = {}
    refused: list[CheckpointError] = []
    for name, path in found.items():
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            logger.error("refused checkpoint %s: %s", name, error)
            refused.append(error)
            continue
        models[name] = ServedModel(checkpoint, _engine(checkpoint, device, settings, metrics))
        logger.info("loaded %s: %d parameters, %s", name, checkpoint.config.num_parameters, models[name].engine.backend)
    if default not in models:
        reason = next((str(error) for error in refused if error.path.parent.name == default), "there is no such folder")
        raise StartupError(f"the default model {default!r} cannot be served: {reason}")
    return Registry(default, models, refused)


def load_model(settings: Settings, name: str | None, metrics: Metrics) -> ServedModel:
    """Load one model, the default one unless it is named. Raises `UnknownModelError` or `StartupError`."""
    device, found = _prepare(settings)
    name = name or settings.default_model or _preferred(found)
    if name not in found:
        raise UnknownModelError(f"model: there is no {shown(name)} in {settings.checkpoints}", "model")
    try:
        checkpoint = load_checkpoint(found[name])
    except CheckpointError as error:
        raise StartupError(str(error)) from None
    return ServedModel(checkpoint, _engine(checkpoint, device, settings, metrics))


def _prepare(settings: Settings) -> tuple[str, dict[str, Path]]:
    """The device, and the folders of checkpoints by name."""
    found = {path.name: path for path in find_checkpoints(settings.checkpoints)}
    if not found:
        raise StartupError(
            f"no checkpoints in {settings.checkpoints}: train one with "
            "'python -m training train TEXT --out checkpoints/NAME', or set CAROUSEL_CHECKPOINTS"
        )
    return _device(settings.device), found


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


def _preferred(found: dict[str, Path]) -> str:
    return PREFERRED_DEFAULT if PREFERRED_DEFAULT in found else next(iter(found))


def _device(setting: str) -> str:
    if setting == "auto":
        return "cuda" if gpu_available() else "cpu"
    if setting == "cuda" and not gpu_available():
        raise StartupError("CAROUSEL_DEVICE is cuda, but torch finds no GPU; use auto or cpu")
    return setting


def checkpoint_name(error: CheckpointError, root: Path) -> str:
    """The model that a refused file belongs to."""
    return error.path.relative_to(root).parts[0]
