"""The run directory: everything that a training run is made of, so that it can be resumed, plotted and exported.

runs/NAME/
  run.json              task, configurations, sources, the command: written once, at the start
  tokenizer.json        built from the training text
  train.ids, train.json, valid.…, test.…
                        the tokenized splits (training/data/tokens.py): resuming does not need the text files
  trainer.safetensors, best.safetensors, log.jsonl
                        what the trainer keeps (training/persistence.py)
  start.safetensors, start-speller.safetensors
                        the weights and the speller with which a fine-tuning begins
  speller.safetensors   of the words that the vocabulary left out, trained at the end; speller.json: its network
  ngram.json, curve.png made at the end
"""

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from training.recipe import DEFAULT_TASK

FORMAT_VERSION = 2

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
"""The splits of a text, and their names in files and recipes."""

TOKENIZER, DESCRIPTION = "tokenizer.json", "run.json"
START, START_SPELLER = "start.safetensors", "start-speller.safetensors"


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
        if values.pop("format_version") != FORMAT_VERSION:
            raise ValueError("written by another version")
        values["network"] = NetworkConfig.from_json(values["network"])
        values["corpus"] = CorpusConfig(**values["corpus"])
        values["training"] = TrainingConfig(**values["training"])
        return cls(**values)


@dataclass(frozen=True)
class Run:
    """A run directory that has been prepared."""

    directory: Path
    config: RunConfig

    @cached_property
    def splits(self) -> dict[str, TokenizedText]:
        return {name: load_tokenized(self.directory / stem) for name, stem in SPLITS.items()}

    @property
    def held_out(self) -> dict[str, TokenizedText]:
        """The splits that are not trained on, without empty ones."""
        return {name: text for name, text in self.splits.items() if name != "train" and len(text.ids)}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        level, boundary = self.config.corpus.level, self.config.corpus.boundary
        assert level is not None
        assert boundary is not None
        return Tokenizer.from_bytes((self.directory / TOKENIZER).read_bytes(), level, boundary)


def open_run(directory: Path) -> Run:
    """An existing run. Raises `RunError`."""
    path = directory / DESCRIPTION
    try:
        config = RunConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"{directory}: not a run (there is no {DESCRIPTION} in it)") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    for name in (TOKENIZER, *(f"{split}{suffix}" for split in SPLITS.values() for suffix in (SUFFIX, COUNTS))):
        if not (directory / name).is_file():
            raise RunError(f"{directory / name}: is missing")
    return Run(directory, config)


def write_config(config: RunConfig, directory: Path) -> None:
    text = json.dumps(config.to_json(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(directory / DESCRIPTION, text.encode())


def save_speller(speller: Speller, path: Path) -> None:
    """Writes the speller, and the configuration of its network beside it."""
    write_atomically(path.with_suffix(".json"), json.dumps(speller.config.to_json()).encode())
    write_atomically(path, pack_speller(speller))


def load_speller(path: Path) -> Speller | None:
    """The speller that `save_speller` wrote to `path`; None where there is none."""
    if not path.is_file():
        return None
    network = NetworkConfig.from_json(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    return unpack_speller(path.read_bytes(), network)


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
