"""A served model on disk: save, load, validate. The only I/O in models/, and no pickle.

A checkpoint is a directory, and the directory's name is the model's name:

    config.json         format version, network, tokenizer level and boundary, SHA-256 of the next two files, `about`
    model.safetensors   the weights; a tied matrix once
    tokenizer.json      readable by any `tokenizers` library
    speller.safetensors how words outside the vocabulary are spelled (models/words/speller.py), a network in bfloat16
                        and a lexicon (models/words/lexicon.py); not in every checkpoint
    README.md           the model card, written from `about`

Matrices are stored as float32, bfloat16 or int8. int8 is symmetric with one float32 scale per row, so that
weight = int8 * scale[:, None]; loading always gives a float32 network.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.config import NetworkConfig, NumberType
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from models.words.lexicon import Lexicon
from models.words.speller import Speller

FORMAT_VERSION = 1

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
SPELLER = "speller.safetensors"

SPELLER_STORAGE: NumberType = "bfloat16"

_SCALE = ".scale"
_LEXICON, _SHARE = "lexicon.", "share"


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
    """A loaded model, ready to run, in float32.

    fingerprint: SHA-256 of the weights file. digests: those of all files, by name. about: what the card tells, as data.
    storage: how the weights are stored.
    """

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    storage: NumberType
    fingerprint: str
    about: dict[str, Any]
    card: str
    digests: dict[str, str]
    speller: Speller | None = None


def save_checkpoint(
    directory: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    storage: NumberType = "float32",
    about: dict[str, Any] | None = None,
    card: str = "",
    speller: Speller | None = None,
) -> None:
    """Write a checkpoint to `directory`; it appears there whole or not at all, replacing an older one.

    Raises `CheckpointError` when something else is there.
    """
    contents = {
        WEIGHTS: save(_pack(_weights(model), storage)),
        TOKENIZER: tokenizer.inner.to_str(pretty=False).encode(),
        CARD: card.encode(),
    }
    config = {
        "format_version": FORMAT_VERSION,
        "network": model.config.to_json(),
        "tokenizer": {"level": tokenizer.level, "boundary": tokenizer.boundary},
        "storage": storage,
        "about": about or {},
    }
    _write(directory, contents, config, speller)


def add_speller(directory: Path, speller: Speller) -> None:
    """Put a speller into a saved checkpoint, in place of one that is there; weights and tokenizer stay as they are."""
    load_checkpoint(directory)
    contents = {name: (directory / name).read_bytes() for name in (WEIGHTS, TOKENIZER, CARD)}
    _write(directory, contents, _read_config(directory / CONFIG), speller)


def _write(directory: Path, contents: dict[str, bytes], config: dict[str, Any], speller: Speller | None) -> None:
    """Files by name, and the configuration that vouches for them."""
    if speller is not None:
        contents = {**contents, SPELLER: pack_speller(speller)}
        config = {**config, "speller": speller.model.config.to_json()}
    digests = {name: _sha256(contents[name]) for name in (WEIGHTS, TOKENIZER, SPELLER) if name in contents}
    config = {**config, "sha256": digests}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, content in {**contents, CONFIG: text.encode()}.items():
            (temporary / name).write_bytes(content)
            _sync(temporary / name)
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server that runs as another user
        _replace_directory(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(directory: Path) -> None:
    """Raises `CheckpointError` when something is there that is no checkpoint: saving one there would remove it."""
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not is_free and not (directory / CONFIG).is_file():
        raise CheckpointError(directory, "is there and no checkpoint; it would be replaced: name another place")


def update_about(directory: Path, about: dict[str, Any], card: str) -> None:
    """Replace what a saved checkpoint tells of itself; weights and tokenizer stay as they are."""
    config = _read_config(directory / CONFIG) | {"about": about}
    for name, text in ((CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n"), (CARD, card)):
        temporary = directory / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        temporary.replace(directory / name)


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read and check a checkpoint. Raises `CheckpointError`, naming the file and what is wrong with it."""
    path = directory / CONFIG
    config = _read_config(path)
    try:
        network = NetworkConfig.from_json(_field(config, "network", dict))
        storage = _field(config, "storage", str)
        if storage not in get_args(NumberType):
            raise ValueError(f"storage: {storage!r} is not one of {', '.join(get_args(NumberType))}")
        level_and_boundary = _field(config, "tokenizer", dict)
        digests = _field(config, "sha256", dict)
        about = _field(config, "about", dict)
        spelling = NetworkConfig.from_json(_field(config, "speller", dict)) if config.get("speller") else None
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    contents = {name: _read_checked(directory / name, digests.get(name)) for name in (WEIGHTS, TOKENIZER)}
    try:
        tokenizer = Tokenizer.from_bytes(
            contents[TOKENIZER], level_and_boundary.get("level"), level_and_boundary.get("boundary")
        )
    except ValueError as error:
        raise CheckpointError(directory / TOKENIZER, str(error)) from None
    if len(tokenizer) != network.vocabulary_size:
        raise CheckpointError(
            directory / TOKENIZER, f"has {len(tokenizer)} tokens where {CONFIG} says {network.vocabulary_size}"
        )
    model = _read_model(directory / WEIGHTS, _stored(directory / WEIGHTS, contents[WEIGHTS]), network, storage)
    speller = None
    if spelling is not None:
        content = _read_checked(directory / SPELLER, digests.get(SPELLER))
        speller = read_speller(directory / SPELLER, content, spelling)
    card = directory / CARD
    return Checkpoint(
        name=directory.name,
        model=model,
        tokenizer=tokenizer,
        storage=storage,
        fingerprint=_sha256(contents[WEIGHTS]),
        about=about,
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "",
        digests=digests,
        speller=speller,
    )


def pack_speller(speller: Speller) -> bytes:
    """A file that holds it."""
    tensors = _pack(_weights(speller.model), SPELLER_STORAGE)
    if speller.lexicon is not None:
        listed = speller.lexicon.to_tensors() | {_SHARE: torch.tensor(speller.share, dtype=torch.float64)}
        tensors |= {_LEXICON + name: tensor for name, tensor in listed.items()}
    return save(tensors)


def read_speller(path: Path, content: bytes, network: NetworkConfig) -> Speller:
    """What `pack_speller` made of one with that network. Raises `CheckpointError`, naming `path`."""
    stored = _stored(path, content)
    listed = {name.removeprefix(_LEXICON): stored.pop(name) for name in sorted(stored) if name.startswith(_LEXICON)}
    model = _read_model(path, stored, network, SPELLER_STORAGE)
    try:
        if not listed:
            return Speller(model)
        if _SHARE not in listed or listed[_SHARE].numel() != 1:
            raise ValueError(f"tensor {_LEXICON}{_SHARE}: one number is needed")
        share = float(listed.pop(_SHARE).item())
        return Speller(model, Lexicon.from_tensors(listed), share)
    except ValueError as error:
        raise CheckpointError(path, f"speller: {error}") from None


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


def _field(config: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(config.get(name), kind):
        raise ValueError(f"{name}: is missing or not a JSON {'object' if kind is dict else 'string'}")
    return config[name]


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


def _weights(model: LanguageModel) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}


def _stored(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(path, f"not a safetensors file ({error})") from None


def _read_model(path: Path, stored: dict[str, Tensor], network: NetworkConfig, storage: NumberType) -> LanguageModel:
    try:
        return _build(network, _unpack(stored, storage))
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _build(config: NetworkConfig, weights: dict[str, Tensor]) -> LanguageModel:
    """A network with the given weights. Raises `ValueError` on missing, extra, misshapen or non-finite tensors."""
    with torch.device("meta"):
        expected = {name: tuple(parameter.shape) for name, parameter in LanguageModel(config).named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"tensor {name}: has shape {found.get(name, 'none (it is missing)')} "
                f"where {CONFIG} asks for {expected.get(name, 'no such tensor')}"
            )
        if not weights[name].isfinite().all():
            raise ValueError(f"tensor {name}: holds values that are not finite")
    model = LanguageModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval().requires_grad_(False)


def _pack(weights: dict[str, Tensor], storage: NumberType) -> dict[str, Tensor]:
    if storage == "float32":
        return weights
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            packed[name] = weight
        elif storage == "bfloat16":
            packed[name] = weight.bfloat16()
        else:
            scale = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            packed[name] = (weight / scale[:, None]).round().to(torch.int8)
            packed[name + _SCALE] = scale
    return packed


def _unpack(stored: dict[str, Tensor], storage: NumberType) -> dict[str, Tensor]:
    if storage != "int8":
        return {name: tensor.float() for name, tensor in stored.items()}
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(_SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = stored.get(name + _SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise ValueError(f"tensor {name + _SCALE}: one scale per row of {name} is needed")
            tensor = tensor.float() * scale.float()[:, None]
        weights[name] = tensor.float()
    return weights


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_directory(new: Path, directory: Path) -> None:
    _sync(new)
    if directory.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
        directory.rename(old / directory.name)
        new.rename(directory)
        shutil.rmtree(old)
    else:
        new.rename(directory)
    _sync(directory.parent)
