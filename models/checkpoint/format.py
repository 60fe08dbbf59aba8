"""A served model on disk: save, load, validate, and no pickle.

A checkpoint is a directory, and the directory's name is the model's name:

    config.json         format version, task, network, tokenizer level and boundary, SHA-256 of the other files, `about`
    model.safetensors   the weights; a tied matrix once
    tokenizer.json      readable by any `tokenizers` library
    speller.safetensors how words outside the vocabulary are spelled (models/words/speller.py), a network in bfloat16
                        and a lexicon (models/words/lexicon.py); not in every checkpoint
    README.md           the model card, written from `about`

Matrices are stored as float32, bfloat16 or int8 (models/checkpoint/quantise.py).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from models.arrays import Array
from models.checkpoint.quantise import StoredWeights, pack
from models.checkpoint.speller import pack_speller, unpack_speller
from models.checkpoint.tensors import from_bytes, to_bytes
from models.config import NetworkConfig, NumberType, Task
from models.files import replacing_directory, write_atomically
from models.text.tokenizer import Tokenizer
from models.words.speller import Speller

if TYPE_CHECKING:
    from models.network import LanguageModel

FORMAT_VERSION = 1

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
SPELLER = "speller.safetensors"

DEFAULT_TASK: Task = "language_model"
"""Of a checkpoint whose configuration names none."""


class CheckpointError(ValueError):
    """A directory that is not a checkpoint this version can serve.

    path: the file that is wrong. reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    fingerprint: SHA-256 of the weights file. digests: those of all files, by name. about: what the card says, as data.
    storage: how the weights are stored.
    """

    name: str
    config: NetworkConfig
    tokenizer: Tokenizer
    storage: NumberType
    fingerprint: str
    about: dict[str, Any]
    card: str
    digests: dict[str, str]
    stored: StoredWeights
    speller: Speller | None = None
    task: Task = DEFAULT_TASK

    @property
    def version(self) -> str:
        """What tells this model from any other of its name: SHA-256 of what decides its answers, in hexadecimal."""
        return version_of(self.digests)

    def let_go(self) -> None:
        """Forget the weights, once a backend has packed them: `weights` and `model` cannot be asked for any more."""
        self.stored.clear()

    def weights(self) -> Mapping[str, Array]:
        """The weights by name, float32. Each is unpacked whenever it is asked for, so that nothing large is kept."""
        return self.stored

    @cached_property
    def model(self) -> "LanguageModel":
        """The network in torch, in float32, for training and evaluation; made when it is first asked for."""
        from models.network import from_arrays

        return from_arrays(self.config, self.weights())


def save_checkpoint(
    directory: Path,
    model: "LanguageModel",
    tokenizer: Tokenizer,
    storage: NumberType = "float32",
    about: dict[str, Any] | None = None,
    card: str = "",
    speller: Speller | None = None,
    task: Task = DEFAULT_TASK,
) -> None:
    """Write a checkpoint to `directory`; it appears there whole or not at all, replacing an older one.

    Raises `CheckpointError` when something else is there.
    """
    from models.network import to_arrays

    contents = {
        WEIGHTS: to_bytes(pack(to_arrays(model), storage)),
        TOKENIZER: tokenizer.inner.to_str(pretty=False).encode(),
        CARD: card.encode(),
    }
    config = {
        "format_version": FORMAT_VERSION,
        **({"task": task} if task != DEFAULT_TASK else {}),
        "network": model.config.to_json(),
        "tokenizer": {"level": tokenizer.level, "boundary": tokenizer.boundary},
        "storage": storage,
        "about": about or {},
    }
    _write(directory, contents, config, speller)


def add_speller(directory: Path, speller: Speller) -> None:
    """Put a speller into a saved checkpoint, in place of an older one; weights and tokenizer stay as they are."""
    load_checkpoint(directory)
    contents = {name: (directory / name).read_bytes() for name in (WEIGHTS, TOKENIZER, CARD)}
    _write(directory, contents, _read_config(directory / CONFIG), speller)


def _write(directory: Path, contents: dict[str, bytes], config: dict[str, Any], speller: Speller | None) -> None:
    """Files by name, and the configuration that vouches for them."""
    if speller is not None:
        contents = {**contents, SPELLER: pack_speller(speller)}
        config = {**config, "speller": speller.config.to_json()}
    digests = {name: _sha256(contents[name]) for name in (WEIGHTS, TOKENIZER, SPELLER) if name in contents}
    check_replaceable(directory)
    with replacing_directory(directory) as folder:
        for name, content in {**contents, CONFIG: _as_text({**config, "sha256": digests})}.items():
            (folder / name).write_bytes(content)


def check_replaceable(directory: Path) -> None:
    """Raises `CheckpointError` when something other than a checkpoint exists there: saving would remove it."""
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not is_free and not (directory / CONFIG).is_file():
        raise CheckpointError(directory, "is there and no checkpoint; it would be replaced: name another place")


def update_about(directory: Path, about: dict[str, Any], card: str) -> None:
    """Replace what a saved checkpoint says of itself; weights and tokenizer stay as they are."""
    write_atomically(directory / CONFIG, _as_text(_read_config(directory / CONFIG) | {"about": about}))
    write_atomically(directory / CARD, card.encode())


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read and check a checkpoint. Raises `CheckpointError`, naming the file and what is wrong with it."""
    path = directory / CONFIG
    config = _read_config(path)
    try:
        task = _choice(config, "task", Task, DEFAULT_TASK)
        network = NetworkConfig.from_json(_field(config, "network", dict))
        storage = _choice(config, "storage", NumberType)
        level_and_boundary = _field(config, "tokenizer", dict)
        digests = _field(config, "sha256", dict)
        about = _field(config, "about", dict)
        spelling = NetworkConfig.from_json(_field(config, "speller", dict)) if config.get("speller") else None
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    contents = {name: _read_checked(directory / name, digests.get(name)) for name in (WEIGHTS, TOKENIZER)}
    tokenizer = _read_tokenizer(directory / TOKENIZER, contents[TOKENIZER], level_and_boundary, network)
    try:
        stored = StoredWeights(from_bytes(contents[WEIGHTS]), storage, network)
    except ValueError as error:
        raise CheckpointError(directory / WEIGHTS, str(error)) from None
    speller = None
    if spelling is not None:
        try:
            speller = unpack_speller(_read_checked(directory / SPELLER, digests.get(SPELLER)), spelling)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(directory / SPELLER, str(error)) from None
    return Checkpoint(
        name=directory.name,
        config=network,
        tokenizer=tokenizer,
        storage=storage,
        fingerprint=digests[WEIGHTS],
        about=about,
        card=_read_card(directory / CARD),
        digests=digests,
        stored=stored,
        speller=speller,
        task=task,
    )


def _read_tokenizer(path: Path, content: bytes, how: dict[str, Any], network: NetworkConfig) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_bytes(content, how.get("level"), how.get("boundary"))  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    if len(tokenizer) != network.vocabulary_size:
        raise CheckpointError(path, f"has {len(tokenizer)} tokens where {CONFIG} says {network.vocabulary_size}")
    return tokenizer


def find_checkpoints(root: Path) -> list[Path]:
    """Directories below `root` that mean to be checkpoints, by name; hidden ones are being written."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(path, "is not a JSON object")
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(path, f"format_version: {version!r} is not a format version")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            path, f"format_version: {version} is newer than {FORMAT_VERSION}, the newest known here; update Carousel"
        )
    return config


def _as_text(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _field(config: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(config.get(name), kind):
        raise ValueError(f"{name}: is missing or not a JSON {'object' if kind is dict else 'string'}")
    return config[name]


def _choice(config: dict[str, Any], name: str, choices: Any, default: str | None = None) -> Any:
    """A field that holds one of the values of a `Literal`."""
    value = default if default is not None and name not in config else _field(config, name, str)
    if value not in get_args(choices):
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(get_args(choices))}")
    return value


def _read_checked(path: Path, digest: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    if _sha256(content) != digest:
        raise CheckpointError(path, f"its SHA-256 is not the one in {CONFIG}: truncated, edited or of another model")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Description:
    """What the configuration of a checkpoint says, its other files not read. version: see `Checkpoint.version`."""

    task: Task
    config: NetworkConfig
    level: str
    boundary: str
    storage: NumberType
    has_speller: bool
    fingerprint: str
    version: str
    about: dict[str, Any]
    card: str


def describe(directory: Path) -> Description:
    """What a checkpoint says of itself. Raises `CheckpointError`."""
    path = directory / CONFIG
    config = _read_config(path)
    try:
        tokenizer, digests = _field(config, "tokenizer", dict), _field(config, "sha256", dict)
        return Description(
            task=_choice(config, "task", Task, DEFAULT_TASK),
            config=NetworkConfig.from_json(_field(config, "network", dict)),
            level=_field(tokenizer, "level", str),
            boundary=_field(tokenizer, "boundary", str),
            storage=_choice(config, "storage", NumberType),
            has_speller=bool(config.get("speller")),
            fingerprint=_field(digests, WEIGHTS, str),
            version=version_of(digests),
            about=_field(config, "about", dict),
            card=_read_card(directory / CARD),
        )
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def version_of(digests: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the digests of the files that decide a model's answers."""
    named = {name: str(digests[name]) for name in (WEIGHTS, TOKENIZER, SPELLER) if name in digests}
    return _sha256(json.dumps(named, sort_keys=True).encode())


def _read_card(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
