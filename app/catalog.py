"""What is on disk: the folder of checkpoints, those that load and those that are refused. Nothing is served here."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import UnknownModelError, shown
from app.settings import Settings
from models.checkpoint.format import Checkpoint, CheckpointError, find_checkpoints, load_checkpoint
from models.files import recover

PREFERRED_DEFAULT = "english-word"


class StartupError(RuntimeError):
    """The server cannot start; the message says what to do."""


@dataclass(frozen=True)
class Refused:
    """A checkpoint that does not load. name: of its folder, as it can be shown."""

    name: str
    error: CheckpointError


class Catalog:
    """The checkpoints of a folder, by name; what an export left that was killed is put right first. Raises
    `StartupError` for a folder that cannot be read or has no checkpoints."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.checkpoints
        recover(self.folder)
        try:
            found = find_checkpoints(self.folder)
        except OSError as error:
            raise StartupError(f"{self.folder}: cannot be read ({error.strerror}); set CAROUSEL_CHECKPOINTS") from None
        self.paths: dict[str, Path] = {path.name: path for path in found}
        if not self.paths:
            raise StartupError(
                f"no checkpoints in {self.folder}: train one with "
                "'python -m training train TEXT --out checkpoints/NAME', or set CAROUSEL_CHECKPOINTS"
            )
        self.default: str = settings.default_model or self._preferred()
        """Name of the model for requests that name no model; it may not exist."""

    def load(self, name: str) -> Checkpoint:
        """One checkpoint. Raises `UnknownModelError`, or `StartupError` where it is refused."""
        if name not in self.paths:
            raise UnknownModelError(f"model: {shown(name)} is not in {self.folder}", "model")
        try:
            return load_checkpoint(self.paths[name])
        except CheckpointError as error:
            raise StartupError(str(error)) from None

    def _preferred(self) -> str:
        return PREFERRED_DEFAULT if PREFERRED_DEFAULT in self.paths else next(iter(self.paths))
