"""The run directory: everything that a training run is made of, so that it can be resumed, plotted and exported.

runs/NAME/
  run.json              task, configurations, sources, the command, the sums of the files that the run begins with:
                        written once, at the start
  tokenizer.json        built from the training text
  train.ids, train.json, valid.…, test.…
                        the tokenized splits (training/data/tokens.py): resuming does not need the text files
  trainer.safetensors, trainer-before.safetensors, best.safetensors, log.jsonl
                        what the trainer keeps (training/persistence.py)
  start.safetensors, start-speller.safetensors
                        the weights and the speller with which a fine-tuning begins
  speller.safetensors   of the words that the vocabulary left out, trained at the end; speller.json: its network
  ngram.json, curve.png made at the end

What is JSON or safetensors holds a SHA-256 of itself (training/sealed.py), or run.json holds it.
"""

import hashlib
import platform
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.speller import pack_speller, unpack_speller
from models.config import NetworkConfig, NumberType
from models.files import write_atomically
from models.process import cores
from models.text.tokenizer import Tokenizer
from models.words.speller import Speller
from training.config import TrainingConfig
from training.data.corpus import CorpusConfig
from training.data.tokens import COUNTS, SUFFIX, TokenizedText, load_tokenized
from training.recipe import DEFAULT_TASK, check
from training.sealed import WRONG_SUM, DamagedError, file_sum, read_json, write_json

FORMAT_VERSION = 2

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
"""The splits of a text, and their names in files and recipes."""

TOKENIZER, DESCRIPTION = "tokenizer.json", "run.json"
START, START_SPELLER = "start.safetensors", "start-speller.safetensors"

SUMS = "files"
"""The key in run.json of the sums of the files beside it."""
WEIGHTS = "weights_sha256"
"""The key in a speller's configuration of the sum of its weights."""


class RunError(ValueError):
    """A run directory that cannot be used, with what to do about it."""


@dataclass(frozen=True)
class RunConfig:
    """The content of run.json. sources: the text files of each split, by their names in a recipe."""

    network: NetworkConfig
    corpus: CorpusConfig
    training: TrainingConfig
    sources: dict[str, list[str]]
    description: str | None
    licence: str | None
    command: str
    out: str | None
    storage: NumberType
    hardware: str
    created: str
    device: str = "cpu"
    start: str | None = None
    task: str = DEFAULT_TASK

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION} | asdict(self) | {"network": self.network.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """Inverse of `to_json`. Raises `ValueError`, `TypeError` or `KeyError` on anything else."""
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version: {values['format_version']!r} is not {FORMAT_VERSION}")
        tables = {
            "network": NetworkConfig.from_json(check("network", dict(values["network"]), NetworkConfig)),
            "corpus": CorpusConfig(**check("corpus", dict(values["corpus"]), CorpusConfig)),
            "training": TrainingConfig(**check("training", dict(values["training"]), TrainingConfig)),
        }
        return cls(**check("run", {name: values[name] for name in values if name != "format_version"} | tables, cls))


@dataclass(frozen=True)
class Run:
    """A run directory that has been prepared. sums: SHA-256 by name of the files that the run begins with; none in a
    run of an earlier version."""

    directory: Path
    config: RunConfig
    sums: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def splits(self) -> dict[str, TokenizedText]:
        """Raises `RunError` where a split cannot be read."""
        return {name: self._read_split(self.directory / stem) for name, stem in SPLITS.items()}

    def _read_split(self, path: Path) -> TokenizedText:
        try:
            return load_tokenized(path)
        except DamagedError as error:
            raise RunError(f"{error}. {self.remedy}") from None

    @property
    def held_out(self) -> dict[str, TokenizedText]:
        """The splits that are not trained on, without empty ones."""
        return {name: text for name, text in self.splits.items() if name != "train" and len(text.ids)}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        level, boundary = self.config.corpus.level, self.config.corpus.boundary
        assert level is not None
        assert boundary is not None
        path = self.directory / TOKENIZER
        try:
            tokenizer = Tokenizer.from_bytes(path.read_bytes(), level, boundary)
        except ValueError as error:
            raise RunError(f"{path}: is damaged ({error}). {self.remedy}") from None
        if len(tokenizer) != self.config.network.vocabulary_size:
            has, needed = len(tokenizer), self.config.network.vocabulary_size
            raise RunError(f"{path}: has {has} tokens where {DESCRIPTION} says {needed}. {self.remedy}")
        return tokenizer

    @property
    def remedy(self) -> str:
        """What to do where a file is lost that the run begins with."""
        again = self.config.command + ("" if "--force" in self.config.command.split() else " --force")
        return f"Put back a copy of it, or start the run anew:\n  {again}"

    def check_files(self) -> None:
        """Reads every file that the run begins with, once. Raises `RunError` where one is not as it was written."""
        for name, expected in self.sums.items():
            path = self.directory / name
            if not path.is_file():
                raise RunError(f"{path}: is missing. {self.remedy}")
            if file_sum(path) != expected:
                raise RunError(f"{path}: {WRONG_SUM}. {self.remedy}")
        for name, text in self.splits.items():
            if len(text.ids) and not 0 <= int(text.ids.min()) <= int(text.ids.max()) < len(self.tokenizer):
                path = self.directory / f"{SPLITS[name]}{SUFFIX}"
                raise RunError(f"{path}: is damaged: it has ids outside the vocabulary. {self.remedy}")


def open_run(directory: Path) -> Run:
    """An existing run. Raises `RunError`."""
    path = directory / DESCRIPTION
    try:
        values = read_json(path)
        sums = {str(name): str(one) for name, one in dict(values.pop(SUMS, {})).items()}
        config = RunConfig.from_json(values)
    except FileNotFoundError:
        raise RunError(f"{directory}: not a run (there is no {DESCRIPTION} in it)") from None
    except DamagedError as error:
        raise RunError(f"{error}. Otherwise put back a copy of it, or start the run anew with --force") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}). Put back a copy of it, or start the run anew with --force"
        ) from None
    for name in (TOKENIZER, *(f"{split}{suffix}" for split in SPLITS.values() for suffix in (SUFFIX, COUNTS))):
        if not (directory / name).is_file():
            raise RunError(f"{directory / name}: is missing")
    return Run(directory, config, sums)


def write_config(config: RunConfig, directory: Path) -> None:
    """Writes run.json, which vouches for the files that are in the directory so far."""
    sums = {file.name: file_sum(file) for file in sorted(directory.iterdir()) if file.name != DESCRIPTION}
    write_json(directory / DESCRIPTION, config.to_json() | {SUMS: sums})


def save_speller(speller: Speller, path: Path) -> None:
    """Writes the speller, and the configuration of its network beside it."""
    content = pack_speller(speller)
    write_json(path.with_suffix(".json"), speller.config.to_json() | {WEIGHTS: hashlib.sha256(content).hexdigest()})
    write_atomically(path, content)


def load_speller(path: Path) -> Speller | None:
    """The speller that `save_speller` wrote to `path`; None where there is none. Raises `DamagedError`."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        values = read_json(path.with_suffix(".json"))
        written = values.pop(WEIGHTS, None)
        if written is None or written == hashlib.sha256(content).hexdigest():
            return unpack_speller(content, NetworkConfig.from_json(values))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise DamagedError(path, f"cannot be used ({error})") from None
    raise DamagedError(path, WRONG_SUM)


def command_line(name: str, directory: Path) -> str:
    """How a command for a run is typed."""
    return f"python -m training {name} {shlex.quote(str(directory))}"


def explained(error: OSError, place: Path | str, advice: str) -> OSError:
    """An error of the system's that says where it was met and what to do. A full disk names no file by itself."""
    return OSError(f"{error.filename or place}: {error.strerror or error}. {advice}")


def check_writable(directories: Sequence[Path]) -> None:
    """Makes the directories and writes into each. Raises `RunError`: better now than after an hour of training."""
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise RunError(f"{directory}: cannot be written to ({error.strerror})") from None


def hardware(device: str = "cpu") -> str:
    """The GPU's name, or the processor's and how many cores this process may use."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    count = cores()
    return f"{name}, {count} {'core' if count == 1 else 'cores'}"
