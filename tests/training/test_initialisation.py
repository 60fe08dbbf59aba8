"""How a network begins."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.checkpoint.format import Checkpoint
from models.checkpoint.quantise import StoredWeights
from models.config import NetworkConfig
from models.network import LanguageModel, to_arrays
from models.text.tokenizer import Tokenizer
from tests.tiny import random_ids, tiny_model
from training import initialisation
from training.initialisation import carry_over, set_unigram_bias


def test_untrained_network_predicts_as_a_unigram_model() -> None:
    model = LanguageModel(NetworkConfig(vocabulary_size=5, embedding_size=4, hidden_sizes=(4,)))
    ids = torch.tensor([3, 1, 3, 3, 1, 2], dtype=torch.int32)
    set_unigram_bias(model, ids)
    without_text = torch.log_softmax(model.output(torch.zeros(1, 4)), dim=-1)[0]
    torch.testing.assert_close(without_text.exp(), torch.tensor([1, 3, 2, 4, 1]) / 11)


def test_texts_larger_than_memory_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (LanguageModel(NetworkConfig(vocabulary_size=5, embedding_size=4, hidden_sizes=(4,))) for _ in "ab")
    ids = torch.randint(5, (1000,), generator=torch.Generator().manual_seed(1))
    set_unigram_bias(whole, ids)
    monkeypatch.setattr(initialisation, "COUNTED_TOGETHER", 64)
    set_unigram_bias(parts, ids)
    assert torch.equal(whole.output.bias, parts.output.bias)


def _stored(model: LanguageModel) -> StoredWeights:
    return StoredWeights(to_arrays(model), "float32", model.config)


def checkpoint(model: LanguageModel, tokenizer: Tokenizer) -> Checkpoint:
    return Checkpoint("start", model.config, tokenizer, "float32", "", {}, "", {}, _stored(model))


@pytest.mark.parametrize("shape", [{"tied": True, "hidden_sizes": (8,)}, {"cell": "gru"}, {"projection_size": 8}])
def test_rows_of_tokens_that_both_vocabularies_have_are_carried_over(shape: dict[str, Any]) -> None:
    large, small = (Tokenizer.train(["a b c d e f a b c d a b"], "split", "line", size) for size in (8, 5))
    assert len(small) < len(large)
    start = checkpoint(tiny_model(len(large), **shape), large)
    model = LanguageModel(replace(start.model.config, vocabulary_size=len(small)))
    assert carry_over(model, small, start) == len(small)
    ids = random_ids(2, 6, vocabulary_size=len(small))
    same = torch.tensor([large.vocabulary[token] for token in small.tokens])
    zeros = model.config.state_layout.zeros(2)
    expected, _ = start.model(same[ids], zeros)
    torch.testing.assert_close(model(ids, zeros)[0], expected[..., same])


def test_weights_of_another_network_are_refused() -> None:
    tokenizer = Tokenizer.train(["a b c"], "split", "line")
    start = checkpoint(tiny_model(len(tokenizer), hidden_sizes=(4,)), tokenizer)
    with pytest.raises(ValueError, match="start is of another network"):
        carry_over(tiny_model(len(tokenizer), hidden_sizes=(5,)), tokenizer, start)
