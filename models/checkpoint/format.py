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
import math
import re
import stat
import traceback
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from models.arrays import Array
from models.checkpoint.quantise import StoredWeights, pack
from models.checkpoint.speller import pack_speller, unpack_speller
from models.checkpoint.tensors import from_bytes, to_bytes
from models.config import NetworkConfig, NumberType, Task
from models.files import read_file, replacing_directory, write_atomically
from models.text.tokenizer import Tokenizer
from models.text.words import one_line
from models.words.speller import Speller

if TYPE_CHECKING:
    from models.network import LanguageModel

FORMAT_VERSION = 1

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
SPELLER = "speller.safetensors"

DEFAULT_TASK: Task = "language_model"
"""Of a checkpoint whose configuration names none."""

MAX_TEXT_BYTES, MAX_TOKENIZER_BYTES, MAX_LEXICON_BYTES = 4 << 20, 256 << 20, 64 << 20
"""No configuration or card, tokenizer, or lexicon of a speller is larger."""

MAX_DEPTH = 32
"""`about` is nested no deeper: what is read as JSON must be written as JSON again."""


class CheckpointError(ValueError):
    """A directory that is not a checkpoint this version can serve.

    path: the file that is wrong. reason: what is wrong with it. Both can be shown and logged, whatever they quote.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = Path(one_line(str(path), 4096))
        self.reason = one_line(reason)
        super().__init__(f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    fingerprint: SHA-256 of the weights file. digests: those of all files, by name. about: what the card says, as data.
    storage: how the weights are stored. unk_spelling: mean log-probability, in nats, of the spelling of an unknown word
    of held-out text: what `<unk>` costs where a text has the symbol itself; None where that is not known.
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
    unk_spelling: float | None = None

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
    unk_spelling: float | None = None,
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
        **({"unk_spelling": unk_spelling} if unk_spelling is not None else {}),
        "about": about or {},
    }
    _write(directory, contents, config, speller)


def add_speller(directory: Path, speller: Speller) -> None:
    """Put a speller into a saved checkpoint, in place of an older one; weights and tokenizer stay as they are."""
    load_checkpoint(directory)
    contents = {name: (directory / name).read_bytes() for name in (WEIGHTS, TOKENIZER, CARD)}
    config = {name: value for name, value in _read_config(directory / CONFIG).items() if name != "unk_spelling"}
    _write(directory, contents, config, speller)


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
    """Read and check a checkpoint, whoever made it. Raises `CheckpointError` and nothing else, naming the file and what
    is wrong with it."""
    read = _identity(directory)
    try:
        with refusing(directory):
            return _load(directory)
    except CheckpointError:
        if _identity(directory) == read:
            raise
    return load_checkpoint(directory)  # another one has taken its place meanwhile


@contextmanager
def refusing(directory: Path) -> Iterator[None]:
    """Whatever goes wrong with a checkpoint is a reason to refuse it: raises `CheckpointError` and nothing else."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library is no `Exception`, and a lack of memory is no fault of ours
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"cannot be loaded ({type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error})"
        raise CheckpointError(directory, reason) from None  # a log would quote the error as it is


def _identity(directory: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name."""
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _load(directory: Path) -> Checkpoint:
    said = _describe(directory)
    network, digests = said.config, said.digests
    most = {WEIGHTS: _most_bytes(network), TOKENIZER: min(MAX_TOKENIZER_BYTES, 2**20 + 512 * network.vocabulary_size)}
    contents = {name: _read_checked(directory / name, digests.get(name), most[name]) for name in most}
    tokenizer = _read_tokenizer(directory / TOKENIZER, contents[TOKENIZER], said)
    try:
        stored = StoredWeights(from_bytes(contents[WEIGHTS]), said.storage, network)
    except ValueError as error:
        raise CheckpointError(directory / WEIGHTS, str(error)) from None
    return Checkpoint(
        name=directory.name,
        config=network,
        tokenizer=tokenizer,
        storage=said.storage,
        fingerprint=said.fingerprint,
        about=said.about,
        card=said.card,
        digests=digests,
        stored=stored,
        speller=_read_speller(directory / SPELLER, digests.get(SPELLER), said.speller) if said.speller else None,
        task=said.task,
        unk_spelling=said.unk_spelling,
    )


@dataclass(frozen=True)
class Description:
    """What the configuration of a checkpoint says, its other files but the card not read. digests: of the files that
    decide its answers, by name. speller: the network of its speller."""

    task: Task
    config: NetworkConfig
    level: Any
    boundary: Any
    storage: NumberType
    speller: NetworkConfig | None
    digests: dict[str, str]
    about: dict[str, Any]
    card: str
    unk_spelling: float | None = None

    @property
    def has_speller(self) -> bool:
        return self.speller is not None

    @property
    def fingerprint(self) -> str:
        return self.digests[WEIGHTS]

    @property
    def version(self) -> str:
        """See `Checkpoint.version`."""
        return version_of(self.digests)


def describe(directory: Path) -> Description:
    """What a checkpoint says of itself. Raises `CheckpointError` and nothing else."""
    with refusing(directory):
        return _describe(directory)


def _describe(directory: Path) -> Description:
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in directory.name):
        raise CheckpointError(directory, "its name has control characters or is not UTF-8: rename the folder")
    path = directory / CONFIG
    config = _read_config(path)
    try:
        task, tokenizer = _choice(config, "task", Task, DEFAULT_TASK), _field(config, "tokenizer", dict)
        return Description(
            task=task,
            config=_network(_field(config, "network", dict), predicts_tokens=task == DEFAULT_TASK),
            level=tokenizer.get("level"),
            boundary=tokenizer.get("boundary"),
            storage=_choice(config, "storage", NumberType),
            speller=_network(_field(config, "speller", dict), True) if config.get("speller") else None,
            digests=_checked_digests(_field(config, "sha256", dict)),
            about=_checked_about(_field(config, "about", dict)),
            card=_read_card(directory / CARD),
            unk_spelling=_unk_spelling(config.get("unk_spelling")),
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _unk_spelling(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e6 < value <= 0:
        raise ValueError(f"unk_spelling: {value!r} is no log-probability of a word")
    return float(value)


def _network(values: dict[str, Any], predicts_tokens: bool) -> NetworkConfig:
    network = NetworkConfig.from_json(values)
    if predicts_tokens and network.outputs is not None:
        raise ValueError(f"outputs: {network.outputs} is given, but a language model predicts the tokens")
    return network


def _checked_digests(digests: dict[str, Any]) -> dict[str, str]:
    for name in (WEIGHTS, TOKENIZER, SPELLER):
        if name in digests and not re.fullmatch("[0-9a-f]{64}", str(digests[name])):
            raise ValueError(f"sha256: {digests[name]!r} of {name} is no SHA-256 in hexadecimal")
    if WEIGHTS not in digests:
        raise ValueError(f"sha256: has none of {WEIGHTS}")
    return {name: digests[name] for name in (WEIGHTS, TOKENIZER, SPELLER) if name in digests}


def version_of(digests: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of the digests of the files that decide a model's answers."""
    return _sha256(json.dumps(digests, sort_keys=True).encode())


def _most_bytes(network: NetworkConfig) -> int:
    """Bytes that a file of these weights has at most: eight a number, and what the file says of each tensor."""
    return 8 * network.num_parameters + 2048 * len(network.weight_shapes) + 2**20


def _read_speller(path: Path, digest: str | None, network: NetworkConfig) -> Speller:
    content = _read_checked(path, digest, _most_bytes(network) + MAX_LEXICON_BYTES)
    try:
        return unpack_speller(content, network)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _read_card(path: Path) -> str:
    try:
        return read_file(path, MAX_TEXT_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None


def _checked_about(about: dict[str, Any]) -> dict[str, Any]:
    """Raises `ValueError` where it could not be told on as JSON."""
    level: list[Any] = [about]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _children(one)]
    if level:
        raise ValueError(f"about: is nested deeper than {MAX_DEPTH}")
    try:
        json.dumps(about, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("about: holds half a surrogate pair, which no UTF-8 has") from None
    return about


def _children(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _read_tokenizer(path: Path, content: bytes, said: Description) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_bytes(content, said.level, said.boundary)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    if len(tokenizer) != said.config.vocabulary_size:
        raise CheckpointError(path, f"has {len(tokenizer)} tokens where {CONFIG} says {said.config.vocabulary_size}")
    return tokenizer


def find_checkpoints(root: Path) -> list[Path]:
    """What is below `root` and means to be a checkpoint, by name: directories, and links that lead nowhere, which are
    refused. Hidden ones are being written."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if not path.name.startswith(".") and _may_be_checkpoint(path))


def _may_be_checkpoint(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return True


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = read_file(path, MAX_TEXT_BYTES).decode()
        config = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
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


def _finite(number: str) -> float | None:
    """A number; None for one that JSON has not: where a figure was missing, NaN has been written."""
    return value if math.isfinite(value := float(number)) else None


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


def _read_checked(path: Path, digest: str | None, most: int) -> bytes:
    try:
        content = read_file(path, most)
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    if _sha256(content) != digest:
        raise CheckpointError(path, f"its SHA-256 is not the one in {CONFIG}: truncated, edited or of another model")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
