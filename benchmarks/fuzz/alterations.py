"""Alterations: of bytes, of JSON trees, of tensors. Each is a function of a generator of random numbers alone."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from models.arrays import Array
from models.checkpoint.tensors import BFLOAT16, from_bytes, to_bytes

Json = Any

VALUES: list[Json] = [
    *(None, True, False, 0, 1, -1, 2, 12, 255, 1 << 16, 1 << 24, 1_000_000, 1 << 31, 1 << 63, 1 << 64, -(1 << 63)),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), "", "x", "<unk>", "<eos>", "a\nb", "\x00", "\ud800", "日"),
    *("x" * 10_000, [], {}, [[]], [0], ["a", "b"], {"type": "NFKC"}, {"type": "Sequence", "normalizers": []}),
]
PLANTED: dict[str, list[Json]] = {
    "padding": [
        {"strategy": strategy, "direction": side, "pad_id": 1_000_000, "pad_type_id": 0, "pad_token": "x"}
        for strategy in ({"Fixed": 4}, {"Fixed": 1 << 40}, "BatchLongest")
        for side in ("Left", "Right")
    ],
    "truncation": [{"direction": "Right", "max_length": n, "strategy": "LongestFirst", "stride": 0} for n in (0, 1)],
    "normalizer": [
        {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
        {"type": "Prepend", "prepend": "x" * 1000},
        {"type": "Sequence", "normalizers": [{"type": "NFKC"}]},
    ],
    "post_processor": [
        {"type": "BertProcessing", "sep": ["x", 999_999], "cls": ["y", 999_998]},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ],
    "pre_tokenizer": [{"type": "ByteLevel", "add_prefix_space": True}, {"type": "Digits", "individual_digits": True}],
    "added_tokens": [[{"id": 1 << 20, "content": "cat", "single_word": False, "lstrip": False, "rstrip": False}]],
    "about": [{"a": "\ud800"}, {"a": float("nan")}, {"a": 1 << 10_000}],
    "tokenizer": [{"level": level, "boundary": "line"} for level in ("char", "word", "split", "bpe")],
}
"""What means something at its place."""

NAMES = [
    "padding",
    "truncation",
    "normalizer",
    "post_processor",
    "merges",
    "vocab",
    "speller",
    "task",
    "about",
    "one_hot",
]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 127.0, 1e6, -1e6, 1e7, 1e30, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
DTYPES: list[np.dtype[Any]] = [*map(np.dtype, ["f2", "f4", "f8", "i1", "u1", "u2", "u4", "u8", "i8"]), BFLOAT16]


def altered_bytes(random: Random, content: bytes) -> bytes:
    """Another content: bits flipped, a piece lost, doubled, zeroed or made up, or cut short."""
    changed = content
    while changed == content:
        first = random.randrange(len(content) + 1)
        if random.random() < 0.3:  # where headers are
            first = random.randrange(min(64, len(content)) + 1)
        last = first + random.choice([1, 1, 2, 8, 100, len(content)])
        piece = content[first:last]
        others = [
            bytes(byte ^ 1 << random.randrange(8) for byte in piece),
            b"",
            piece * 2,
            bytes(len(piece)),
            random.randbytes(min(100, last - first)),
        ]
        changed = content[:first] + random.choice(others) + content[last:]
    return changed


def altered_json(random: Random, content: bytes) -> bytes:
    """A file of JSON with some places of its tree changed, or with other bytes."""
    if random.random() < 0.1:
        return altered_bytes(random, content)
    tree = json.loads(content)
    if random.random() < 0.3:
        name = random.choice([name for name in PLANTED if name in tree])
        tree[name] = random.choice(PLANTED[name])
    else:
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            _alter_place(random, tree)
    return json.dumps(tree).encode()


def _alter_place(random: Random, tree: Json) -> None:
    """Change one value in a tree: the deeper ones as likely as the few above."""
    inner = tree
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = random.choice(keys)
        if not isinstance(inner[key], dict | list) or not inner[key] or random.random() < 0.2:
            break
        inner = inner[key]
    _alter_in(random, inner, keys)


def _alter_in(random: Random, inner: Json, keys: list[Any]) -> None:
    how = random.randrange(6)
    if not keys or how == 0:
        if isinstance(inner, dict):
            inner[random.choice([*NAMES, "x", "日", "\ud800", "a\nb"])] = random.choice(VALUES)
        else:
            inner.append(random.choice(VALUES))
        return
    one, other = random.choice(keys), random.choice(keys)
    if how == 1:
        del inner[one]
    elif how == 2:
        inner[one], inner[other] = inner[other], inner[one]
    elif how == 3 and isinstance(inner, dict):
        inner[random.choice(["x", "日", "Ġ", "", "\ud800", "a b"])] = inner.pop(one)
    elif how == 4:
        inner[one] = _nearby(random, inner[one])
    else:
        inner[one] = random.choice(VALUES)


def _nearby(random: Random, value: Json) -> Json:
    """A value of the same type where that can be had."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + random.choice([-1, 1, 1 << 20])
    if isinstance(value, str):
        return value + random.choice(["x", "\n", "日", "\ud800"])
    return [value]


def altered_tensors(random: Random, content: bytes) -> bytes:
    """A file of tensors with other numbers, types, shapes or names, or with other bytes."""
    if random.random() < 0.2:
        return altered_bytes(random, content)
    arrays = from_bytes(content)
    for _ in range(random.choice([1, 1, 2])):
        name = random.choice(sorted(arrays))
        _TENSOR_CHANGES[min(random.randrange(10), len(_TENSOR_CHANGES) - 1)](random, arrays, name)
        if not arrays:
            break
    return to_bytes(arrays)


def _drop(_: Random, arrays: dict[str, Array], name: str) -> None:
    del arrays[name]


def _rename(random: Random, arrays: dict[str, Array], name: str) -> None:
    arrays[random.choice(["x", name + ".scale", "lexicon.x", "a\nb", "日", *arrays])] = arrays.pop(name)


def _retype(random: Random, arrays: dict[str, Array], name: str) -> None:
    array, dtype = arrays[name], random.choice(DTYPES)
    length = array.nbytes // dtype.itemsize * dtype.itemsize
    arrays[name] = np.frombuffer(array.tobytes()[:length], dtype)
    if arrays[name].size == array.size:
        arrays[name] = arrays[name].reshape(array.shape)


def _reshape(random: Random, arrays: dict[str, Array], name: str) -> None:
    array = arrays[name]
    arrays[name] = random.choice([array.reshape(-1), array.T, array[None], array[:-1] if array.ndim else array])


def _renumber(random: Random, arrays: dict[str, Array], name: str) -> None:
    """Some numbers, or all, become what is hard to compute with, or have other bits."""
    array = arrays[name].copy()
    flat = array.reshape(-1)
    some = slice(None) if random.random() < 0.3 else random.sample(range(flat.size), min(flat.size, 3))
    if flat.dtype.kind == "f" and random.random() < 0.7:
        with np.errstate(all="ignore"):
            flat[some] = random.choice(NUMBERS)
    else:
        bits = flat.view(f"u{flat.dtype.itemsize}")
        bits[some] = random.getrandbits(8 * flat.dtype.itemsize)
    arrays[name] = flat.reshape(array.shape)


_TENSOR_CHANGES: list[Callable[[Random, dict[str, Array], str], None]] = [_drop, _rename, _retype, _reshape, _renumber]
