"""The run directory: everything that a training run is made of, so that it can be resumed, plotted and exported.

runs/NAME/
  run.json              network, corpus and training configurations, sources, the command: written once, at the start
  tokenizer.json        built from the training text
  train.ids, train.json, valid.…, test.…
                        the tokenized splits (training/data/tokens.py): resuming does not need the text files
  speller.safetensors   of the words that the vocabulary left out, trained at the end; speller.json: its network
  trainer.safetensors   weights, optimizer, state and position, to resume from (training/trainer.py)
  start.safetensors, start-speller.safetensors
                        what a run begins with that goes on from a checkpoint
  best.safetensors      the weights with the best validation, to export
  log.jsonl, curve.png
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.checkpoint.format import Checkpoint
from models.checkpoint.speller import pack_speller, unpack_speller
from models.config import NetworkConfig, NumberType
from models.documents.text import CorpusError, Document, pieces, size
from models.text.tokenizer import Tokenizer
from models.words.speller import Speller
from training.config import TrainingConfig, resolve_precision
from training.data.corpus import CorpusConfig, make_splits, read_files
from training.data.tokens import COUNTS, SUFFIX, Split, load_split, tokenize
from training.defaults import choose_corpus, choose_network, choose_training, describe
from training.distributed import ALONE, Group
from training.initialisation import carry_over
from training.recipe import Recipe
from training.trainer import START, Trainer

FORMAT_VERSION = 2
START_SPELLER = "start-speller.safetensors"

SPLITS = ("train", "valid", "test")
TOKENIZER, DESCRIPTION = "tokenizer.json", "run.json"


Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""What is being done, of how much -> something to tell how much more is done: `training.display.counting`."""


def no_progress(_what: str, _total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Nobody watches."""
    return nullcontext(lambda _: None)


class RunError(ValueError):
    """A run directory that cannot be used, with what to do about it."""


@dataclass(frozen=True)
class RunConfig:
    """The content of run.json. sources: the text files of each split, by the names they were given."""

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
    def splits(self) -> dict[str, Split]:
        return {name: load_split(self.directory / name) for name in SPLITS}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        level, boundary = self.config.corpus.level, self.config.corpus.boundary
        assert level is not None
        assert boundary is not None
        return Tokenizer.from_bytes((self.directory / TOKENIZER).read_bytes(), level, boundary)

    def trainer(self, group: Group = ALONE) -> Trainer:
        """At the first step; `load` it to continue."""
        splits, config = self.splits, self.config
        return Trainer(
            config.network,
            config.training,
            splits["train"].ids,
            splits["valid"].ids,
            self.tokenizer.eos_id,
            self.directory,
            group,
        )


def prepare_run(
    directory: Path,
    recipe: Recipe,
    data: Path,
    command: str,
    out: Path | None = None,
    force: bool = False,
    device: str = "cpu",
    start: Checkpoint | None = None,
    progress: Progress = no_progress,
) -> Run:
    """Read the text, choose what was not given, and write a run directory that is there whole or not at all.

    data: the folder that the recipe's paths start from. device: where it is trained, and `resume` goes on. start:
    whose weights it begins with; network, level and boundary are its, and the vocabulary, unless a size is asked for.
    progress: shows what is done of a text. Raises `RunError` when the directory exists and not `force`, or is no run,
    `CorpusError` or `ValueError` on what cannot be trained.
    """
    if directory.exists() and not force:
        raise RunError(
            f"{directory}: this run exists already. Continue it:  python -m training resume {directory}\n"
            "or start it anew with --force (the old run is deleted), or give another --run"
        )
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not is_free and not (directory / DESCRIPTION).is_file():
        raise RunError(f"{directory}: is there and no run; --force would delete it: name another place with --run")
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        if start:
            recipe = _continued(recipe, start)
        corpus, tokenizer, splits, files = read_corpus(recipe, data, temporary, start, progress)
        assert corpus.level is not None
        train_tokens = len(splits["train"].ids)
        network = choose_network(recipe.network, corpus.level, len(tokenizer), train_tokens)
        native = resolve_precision("auto", torch.device("cpu")) == torch.bfloat16
        training = choose_training(recipe.training, network, train_tokens, bool(corpus.shuffle_lines), native)
        config = RunConfig(
            network=network,
            corpus=corpus,
            training=training,
            sources={name: [_shown(file, data) for file in found] for name, found in files.items()},
            description=recipe.sources.description,
            licence=recipe.sources.licence,
            command=command,
            out=str(out) if out else None,
            storage=recipe.export.storage,
            hardware=hardware(device),
            created=datetime.now(UTC).date().isoformat(),
            device=device,
            start=start.name if start else None,
        )
        write_config(config, temporary)
        trainer = Run(temporary, config).trainer()  # what cannot be trained is said before the old run is gone
        if start:
            carry_over(trainer.model, tokenizer, start)
            save_file({name: weight.detach() for name, weight in trainer.model.named_parameters()}, temporary / START)
            if start.speller and tokenizer is start.tokenizer:
                save_speller(start.speller, temporary / START_SPELLER)
        if directory.exists():
            shutil.rmtree(directory)
        temporary.chmod(0o755)
        temporary.replace(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(directory, config)


def _continued(recipe: Recipe, start: Checkpoint) -> Recipe:
    """What was not asked for is as it is in a checkpoint. Raises `ValueError` where what was cannot be."""
    tokenizer, asked = start.tokenizer, recipe.corpus
    for name, value, has in (
        ("level", asked.level, tokenizer.level),
        ("boundary", asked.boundary, tokenizer.boundary),
        ("normalization", None if asked.normalization == "none" else asked.normalization, tokenizer.normalization),
    ):
        if value not in (None, has):
            raise ValueError(f"{name}: {value} cannot be: {start.name}, whose weights are taken, has {has}")
    corpus = replace(asked, level=tokenizer.level, boundary=tokenizer.boundary, normalization=tokenizer.normalization)
    network = {name: value for name, value in asdict(start.model.config).items() if name != "vocabulary_size"}
    return replace(recipe, corpus=corpus, network=network | dict(recipe.network))


def read_corpus(
    recipe: Recipe,
    data: Path,
    directory: Path,
    start: Checkpoint | None = None,
    progress: Progress = no_progress,
) -> tuple[CorpusConfig, Tokenizer, dict[str, Split], dict[str, list[Path]]]:
    """The text of a recipe, tokenized into `directory`, the tokenizer beside it: the configuration in full, the
    tokenizer, the splits, the files of each."""
    sources = recipe.sources
    if not sources.train:
        raise CorpusError("no text to train on: name files or folders, or a recipe that does")
    train, valid, test = ([data / name for name in names] for names in (sources.train, sources.valid, sources.test))
    texts, files = read_files(train, valid, test, sources.exclude)
    corpus = choose_corpus(recipe.corpus, describe(texts.train))
    assert corpus.level is not None
    assert corpus.boundary is not None
    texts = make_splits(texts, corpus)
    total = sum(map(size, texts.train))
    if start and recipe.corpus.vocabulary_size is None:
        tokenizer = start.tokenizer
    else:
        with progress("building the vocabulary", total) as advance:
            tokenizer = Tokenizer.train(
                _told(texts.train, advance),
                corpus.level,
                corpus.boundary,
                corpus.vocabulary_size,
                corpus.min_count or 1,
                corpus.normalization,
            )
    tokenizer.save(directory / TOKENIZER)
    with progress("tokenizing", total) as advance:
        splits = {name: tokenize(getattr(texts, name), tokenizer, directory / name, advance) for name in SPLITS}
    if len(splits["train"].ids) < 64:
        raise CorpusError(
            f"{len(splits['train'].ids)} tokens of training text are too few to learn from; "
            f"give at least some thousand {'characters' if corpus.level == 'char' else 'words'}"
        )
    return corpus, tokenizer, splits, files


def _told(documents: Sequence[Document], advance: Callable[[int], None]) -> Iterator[str]:
    """Piece by piece; how much was read is told."""
    for document in documents:
        for piece in pieces(document):
            yield piece
            advance(len(piece))


def open_run(directory: Path) -> Run:
    """An existing run. Raises `RunError`."""
    path = directory / DESCRIPTION
    try:
        config = RunConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"{directory}: not a run (there is no {DESCRIPTION} in it)") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    for name in (TOKENIZER, *(f"{split}{suffix}" for split in SPLITS for suffix in (SUFFIX, COUNTS))):
        if not (directory / name).is_file():
            raise RunError(f"{directory / name}: is missing")
    return Run(directory, config)


def write_config(config: RunConfig, directory: Path) -> None:
    text = json.dumps(config.to_json(), indent=2, ensure_ascii=False) + "\n"
    (directory / DESCRIPTION).write_text(text, encoding="utf-8")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def save_speller(speller: Speller, path: Path) -> None:
    """Beside it, the network that it is of."""
    replace_file(path.with_suffix(".json"), json.dumps(speller.config.to_json()).encode())
    replace_file(path, pack_speller(speller))


def load_speller(path: Path) -> Speller | None:
    """What `save_speller` wrote; None where it did not."""
    if not path.is_file():
        return None
    network = NetworkConfig.from_json(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    return unpack_speller(path.read_bytes(), network)


def check_writable(directories: Sequence[Path]) -> None:
    """Make the directories, and write into each. Raises `RunError`: better now than after an hour of training."""
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}"


def _shown(file: Path, data: Path) -> str:
    """A file by its name below the data folder, where it is below it."""
    try:
        return file.relative_to(data).as_posix()
    except ValueError:
        return file.name if file.is_absolute() else file.as_posix()
