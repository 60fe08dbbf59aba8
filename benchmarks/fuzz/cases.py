"""One case: something altered, and what becomes of it."""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from benchmarks.fuzz.alterations import altered_bytes, altered_json, altered_tensors
from models.arrays import Array
from models.backends.base import InferenceNetwork
from models.backends.load import load_inference
from models.checkpoint.format import (
    CONFIG,
    SPELLER,
    TOKENIZER,
    WEIGHTS,
    Checkpoint,
    CheckpointError,
    add_speller,
    describe,
    load_checkpoint,
    save_checkpoint,
)
from models.checkpoint.quantise import pack
from models.checkpoint.tensors import to_bytes
from models.config import NUMBER_TYPES, Cell, NetworkConfig, NumberType
from models.decoding.completion import Completion, GenerationParams, prompt_inputs
from models.decoding.sampling import SamplingParams
from models.decoding.saved_state import SavedState, StateError
from models.decoding.scoring import log_softmax, scoring_plan
from models.text.levels import Level
from models.words.lexicon import Lexicon
from models.words.next_words import WordIndex, WordPieces, split_begun
from models.words.speller import Speller
from tests.tiny import parts, tiny_model, tiny_tokenizer

Outcome = Literal["refused", "served", "unforeseen"]
"""Of a case that is in order; `unforeseen`: refused, but by a fault that loading did not look for."""

KINDS = ["sums kept", "tokenizer", "weights", "speller", "config", "network", "state, sum kept", "state"]
"""Of alterations: all but the kept sums are written anew."""

SHAPES: dict[Level, tuple[Cell, NumberType, dict[str, Any]]] = {
    "word": ("lstm", "int8", {}),
    "char": ("lstm", "float32", {"tied": True}),
    "split": ("gru", "bfloat16", {"output_layers": (6,)}),
    "bpe": ("lstm", "bfloat16", {"projection_size": 6}),
}
"""A checkpoint of every level: its cell, how it is stored, what else."""

STATE_NUMBERS = [0, -0.0, 1, -1, 1e-45, 1e6, 1e12, -1e12, 1e13, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]

TEXT = "The cat sat on the mat, größer.\nlowest 日本"
LENGTH = 12


class Fault(Exception):  # noqa: N818
    """What was served is not in order."""


@dataclass
class Subject:
    """A sound checkpoint: its folder, its files, a state of it."""

    folder: Path
    files: dict[str, bytes]
    checkpoint: Checkpoint
    network: InferenceNetwork
    state: str


def make_subjects(folder: Path) -> list[Subject]:
    return [_subject(folder / level, level) for level in SHAPES]


def _subject(folder: Path, level: Level) -> Subject:
    tokenizer = tiny_tokenizer(level)
    cell, storage, options = SHAPES[level]
    save_checkpoint(folder, tiny_model(len(tokenizer), cell, **options), tokenizer, storage, about={"steps": [1, 2.5]})
    if level == "word":
        lexicon = Lexicon({"mat": 3, "mats": 1, "größer": 2})
        add_speller(folder, Speller(*parts(tiny_model(257)), lexicon, 0.5))
    checkpoint = load_checkpoint(folder)
    network = load_inference(checkpoint.config, checkpoint.weights(), threads=1)
    states = network.zeros(1)
    network.run(np.array([prompt_inputs(checkpoint.tokenizer, TEXT)]), states, np.array([0]))
    state = SavedState(states[0], 1 + len(TEXT), at_start=False).encode(checkpoint.version)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return Subject(folder, files, checkpoint, network, state)


def run_case(seed: int, number: int, subjects: list[Subject]) -> tuple[str, Outcome]:
    """The kind of a case and what became of it. Raises whatever goes wrong; `Fault` for what should not be served."""
    random = Random(f"{seed}/{number}")
    kind = KINDS[number % len(KINDS)]
    subject = subjects[0] if kind == "speller" else random.choice(subjects)
    if kind.startswith("state"):
        return kind, _state_case(random, subject, kept="kept" in kind)
    if kind == "network":
        return kind, _loaded(subject.folder, _another_network(random, subject))
    return kind, _checkpoint_case(random, subject, kind)


# Checkpoints

_ALTERED: dict[str, tuple[str, Callable[[Random, bytes], bytes]]] = {
    "tokenizer": (TOKENIZER, altered_json),
    "weights": (WEIGHTS, altered_tensors),
    "speller": (SPELLER, altered_tensors),
    "config": (CONFIG, altered_json),
}


def _checkpoint_case(random: Random, subject: Subject, kind: str) -> Outcome:
    files, kept = dict(subject.files), kind == "sums kept"
    if kept:
        kind = random.choice([kind for kind in ("tokenizer", "weights", "speller") if _ALTERED[kind][0] in files])
    name, alter = _ALTERED[kind]
    while kept and files[name] == subject.files[name]:
        files[name] = alter(random, files[name])
    if not kept:
        files[name] = alter(random, files[name])
        files[CONFIG] = _with_sum(files[CONFIG], name, files[name])
    outcome = _loaded(subject.folder, files)
    if kept and outcome == "served":
        raise Fault(f"{name} was altered, its sum was not, and it was served")
    return outcome


def _loaded(folder: Path, files: dict[str, bytes]) -> Outcome:
    """What becomes of a checkpoint of these files."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        said, checkpoint = describe(folder), load_checkpoint(folder)
    except CheckpointError as error:
        return "unforeseen" if error.reason.startswith("cannot be loaded") else "refused"
    if (said.version, said.about) != (checkpoint.version, checkpoint.about):
        raise Fault("what a checkpoint says of itself is not what is loaded")
    use(checkpoint)
    return "served"


def _another_network(random: Random, subject: Subject) -> dict[str, bytes]:
    """The files with a network of another shape, its weights as large or small as may be."""
    vocabulary_size = len(subject.checkpoint.tokenizer)

    def sizes(least: int) -> list[int]:
        return [random.choice([1, 2, 5, 16, 17, 70]) for _ in range(random.choice([least, 1, 2]))]

    one_hot = random.random() < 0.2
    values = {
        "vocabulary_size": vocabulary_size,
        "embedding_size": vocabulary_size if one_hot else sizes(1)[0],
        "hidden_sizes": sizes(1),
        "cell": random.choice(["lstm", "lstm", "gru", "rnn", "lstm_peephole"]),
        "projection_size": random.choice([None, *sizes(1)]),
        "one_hot": one_hot,
        "output_layers": sizes(0) if random.random() < 0.3 else [],
    }
    numbers = np.random.default_rng(random.getrandbits(64))
    weights = {}
    for name, shape in NetworkConfig.from_json(values).weight_shapes.items():
        largest = 10 ** random.choice([-42, -20, -3, -1, 0, 1, 3, 5.99])
        weights[name] = (numbers.uniform(-1, 1, shape) * largest).astype(np.float32)
        if random.random() < 0.2:
            weights[name][:] = largest
    storage = random.choice(NUMBER_TYPES)
    files = {**subject.files, WEIGHTS: to_bytes(pack(weights, storage))}
    config = json.loads(files[CONFIG]) | {"network": values, "storage": storage}
    return {**files, CONFIG: _with_sum(json.dumps(config).encode(), WEIGHTS, files[WEIGHTS])}


def _with_sum(config: bytes, name: str, content: bytes) -> bytes:
    """The configuration with the sum of a file that it lists."""
    if name == CONFIG:
        return config
    values = json.loads(config)
    values["sha256"][name] = hashlib.sha256(content).hexdigest()
    return json.dumps(values).encode()


def use(checkpoint: Checkpoint) -> None:
    """What a server does with a checkpoint. Raises `Fault` for an id out of range or a value that is not finite."""
    network = load_inference(checkpoint.config, checkpoint.weights(), threads=1)
    states = network.zeros(2)
    tokenizer = checkpoint.tokenizer
    ids = prompt_inputs(tokenizer, TEXT)
    _in_range("ids of a text", ids, len(tokenizer))
    features = network.run(np.array([ids, ids]), states, np.arange(2))
    logits = network.logits(features[:, -1])
    _finite("logits", logits)
    _complete(checkpoint, network, states, ids)
    inputs, targets = scoring_plan(ids[1:], tokenizer.eos_id, bos=True, eos=True)
    features = network.run(np.array([inputs]), network.zeros(1), np.array([0]))
    _finite("scores", network.score(features[0], np.array(targets[1:]))[0])
    if tokenizer.rules.has_words:
        WordIndex(tokenizer).find(log_softmax(logits)[0], split_begun(tokenizer, TEXT), 5, punctuation=True)
    else:
        WordPieces(tokenizer)
    if checkpoint.speller:
        _spell(checkpoint.speller)
    json.dumps(checkpoint.about, allow_nan=False, ensure_ascii=False).encode()
    (checkpoint.name + checkpoint.card).encode()


def _complete(checkpoint: Checkpoint, network: InferenceNetwork, states: Array, ids: list[int]) -> None:
    """A greedy completion and one that is drawn, after the same text."""
    tokenizer = checkpoint.tokenizer
    both = [SamplingParams(temperature=0), SamplingParams(temperature=0.8, top_p=0.9, top_k=40)]
    completions = [
        Completion(GenerationParams(LENGTH, sampling=params), tokenizer, True, ids[1:], len(ids)) for params in both
    ]
    decoded = network.decode(completions, [ids[-1:]] * 2, states, [0, 1], 60.0)
    for completion, (_, drawn) in zip(completions, decoded, strict=True):
        _in_range("ids of a completion", drawn, len(tokenizer))
        completion.accept_all(drawn)
        completion.text.encode()
    _finite("states", states)


def _spell(speller: Speller) -> None:
    _finite("spellings", np.array(speller.logprobs(["mat", "mats", "größer", "", "x" * 40])))
    speller.spell(1, 0, 3).encode()
    mass, words = speller.completions("ma", 3)
    _finite("completed spellings", np.array([mass, *(logprob for _, logprob in words)]))


def _in_range(what: str, ids: list[int], size: int) -> None:
    if not all(0 <= token_id < size for token_id in ids):
        raise Fault(f"{what} are not 0 … {size - 1}: {ids}")


def _finite(what: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise Fault(f"{what} are not finite")


# States


def _state_case(random: Random, subject: Subject, kept: bool) -> Outcome:
    text = subject.state
    while text == subject.state:
        text = _altered_state(random, subject.state, kept)
    checkpoint, network = subject.checkpoint, subject.network
    try:
        state = SavedState.decode(text, checkpoint.config.state_layout.size, checkpoint.version)
    except StateError as error:
        str(error).encode()
        return "refused"
    if kept:
        raise Fault("a state was altered, its sum was not, and it was taken")
    states = np.stack([state.row, state.row])
    _finite("logits", network.logits(network.readout(states, np.arange(2))))
    _complete(checkpoint, network, states, [checkpoint.tokenizer.eos_id])
    return "served"


def _altered_state(random: Random, text: str, kept: bool) -> str:
    if kept and random.random() < 0.5:
        return altered_bytes(random, text.encode()).decode("latin-1")
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if random.random() < 0.3:
        content = altered_bytes(random, content)
    else:
        first, last = random.choice([(0, 29), (29, len(content) - 8)])  # the header, or the values
        count = random.choice([1, 1, (last - first) // 4])
        start = random.randrange(first, last - 4 * count + 1)
        number = np.float32(random.choice(STATE_NUMBERS)).tobytes()
        piece = number if random.random() < 0.6 else random.randbytes(4)
        content = content[:start] + piece * count + content[start + 4 * count :]
    if not kept:
        content = content[:-8] + hashlib.blake2b(content[:-8], digest_size=8).digest()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
