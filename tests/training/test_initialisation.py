"""How a network begins."""

import pytest
import torch

from models.network import LanguageModel, NetworkConfig
from training import initialisation
from training.initialisation import set_unigram_bias


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
