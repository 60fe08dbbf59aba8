"""The parts of the benchmark that could be wrong without anyone noticing."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.load import Exchange, quantiles
from benchmarks.naive import LSTMModel
from benchmarks.shapes import SHAPES, TINY_SHAPES, Shape, write_checkpoint
from benchmarks.workloads import make_workload
from models.checkpoint.format import load_checkpoint
from models.network import LanguageModel
from tests.tiny import random_ids


@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_the_naive_network_computes_what_ours_computes(shape: Shape) -> None:
    ours = LanguageModel(shape.network).eval()
    naive = LSTMModel(shape.network)
    naive.load_state_dict(ours.state_dict())
    ids = random_ids(1, 7)
    expected, _ = ours(ids, shape.network.state_layout.zeros(1))
    whole, _ = naive(ids)
    _, state = naive(ids[:, :-1])
    step, _ = naive(ids[:, -1:], state)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(step[:, 0], expected[:, -1])


def test_weights_of_a_step() -> None:
    """A tied matrix counts once, as the output; an embedding that is not tied does not count."""
    char, _, awd = SHAPES
    assert char.step_weights() == 4 * 512 * (128 + 512) + 4 * 512 * 1024 + 512 * 100
    assert awd.step_weights() == pytest.approx(33.5e6, rel=0.01)


def test_tokens_of_a_stream_are_counted_however_it_is_cut() -> None:
    events = [{"index": 0, "text": 'a "text": b'}, {"index": 0, "text": "\n"}, {"usage": {"completion_tokens": 2}}]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
    for cut in range(1, len(stream)):
        exchange = Exchange(sent=0.0)
        exchange.take_piece(stream[:cut], 1.0)
        exchange.take_piece(stream[cut:], 2.0)
        exchange.finish(200, stream)
        assert exchange.error is None
        assert exchange.tokens == len(exchange.token_times) == 2


def test_an_error_late_in_a_stream_is_an_error() -> None:
    exchange = Exchange(sent=0.0)
    exchange.finish(200, b'data: {"text": "a"}\n\ndata: {"error": {"message": "late"}}\n\ndata: [DONE]\n\n')
    assert exchange.error is not None
    assert "late" in exchange.error


def test_quantiles_are_in_ms() -> None:
    assert quantiles([i / 1000 for i in range(100)]) == pytest.approx(
        {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 99.0}
    )
    assert quantiles([]) is None


@pytest.mark.parametrize("shape", TINY_SHAPES, ids=lambda shape: shape.name)
def test_prompts_have_their_length_and_no_two_begin_alike(shape: Shape, tmp_path: Path) -> None:
    write_checkpoint(shape, tmp_path)
    tokenizer = load_checkpoint(tmp_path / shape.name).tokenizer
    workload = make_workload("prefill", tokenizer, seed=0, scale=0.01)
    prompts = [tokenizer.encode(json.loads(body)["prompt"]).ids for body in workload.bodies]
    assert {len(ids) for ids in prompts} == {512}
    assert len({tuple(ids[:6]) for ids in prompts}) == len(prompts)
    assert tokenizer.unk_id not in {token for ids in prompts for token in ids}


def test_hypotheses_of_a_list_share_beginnings(tmp_path: Path) -> None:
    write_checkpoint(TINY_SHAPES[1], tmp_path)
    tokenizer = load_checkpoint(tmp_path / TINY_SHAPES[1].name).tokenizer
    (hypotheses, *_) = (json.loads(body)["text"] for body in make_workload("nbest10", tokenizer, 0, 0.01).bodies)
    ids = [tokenizer.encode(text).ids for text in hypotheses]
    assert len(ids) == 10
    prefixes = {tuple(sequence[:end]) for sequence in ids for end in range(1, len(sequence) + 1)}
    assert len(prefixes) < 0.7 * sum(map(len, ids))
