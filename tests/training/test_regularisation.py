"""What each piece of noise does to the values that pass, and that the mean stays."""

import pytest
import torch

from models.config import NetworkConfig
from models.network import LanguageModel
from training.regularisation import Regularisation, TrainingNoise

B, T, E = 3, 5, 400


def noise(layers: int = 2, **values: float | bool) -> TrainingNoise:
    return TrainingNoise(Regularisation(**values), layers, 20)  # type: ignore[arg-type]  # values of several types


def ones() -> torch.Tensor:
    return torch.ones(B, T, E)


def test_nothing_is_changed_when_all_is_off() -> None:
    made = noise()
    x, ids = ones(), torch.zeros(B, T, dtype=torch.int64)
    assert made.embeddings(x, ids) is x
    assert all(made.connections(x, depth) is x for depth in range(3))
    assert made.recurrent(x, 0) is x
    assert made.penalty() == 0


def test_locked_mask_is_one_for_all_tokens_of_a_row_and_another_for_each_row() -> None:
    torch.manual_seed(0)
    dropped = noise(locked=True, dropout=0.5).connections(ones(), 1)
    assert (dropped == dropped[:, :1]).all()
    assert not torch.equal(dropped[0], dropped[1])
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}


def test_plain_mask_differs_between_tokens() -> None:
    dropped = noise(dropout=0.5).connections(ones(), 1)
    assert not (dropped == dropped[:, :1]).all()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_mean_stays(share: float) -> None:
    torch.manual_seed(0)
    made = noise(dropout=share, dropconnect=share)
    assert made.connections(torch.ones(50, 20, 50), 0).mean().item() == pytest.approx(1, abs=0.02)
    assert made.recurrent(torch.ones(300, 300), 0).mean().item() == pytest.approx(1, abs=0.02)


def test_shares_may_be_as_small_and_as_large_as_they_like() -> None:
    kept = noise(dropout=1e-9).connections(torch.ones(50, 20, 50), 1)
    assert kept.min() == 1
    few = noise(dropout=1 - 1e-9).connections(torch.ones(500, 20, 500), 1)
    assert 0 < few.count_nonzero() < 200  # 76 of 5 million are to be expected, each 2^16
    assert few.mean().item() == pytest.approx(1, abs=0.5)


def test_each_place_has_its_own_share() -> None:
    made = noise(dropout=0.5, input_dropout=0.0, output_dropout=0.9)
    zeros = [(made.connections(torch.ones(B, T, 10_000), depth) == 0).float().mean().item() for depth in range(3)]
    assert zeros == pytest.approx([0.0, 0.5, 0.9], abs=0.02)


def test_word_dropout_takes_every_occurrence_of_a_type_or_none() -> None:
    torch.manual_seed(0)
    ids = torch.randint(20, (B, 100))
    kept = noise(word_dropout=0.5).embeddings(torch.ones(B, 100, 4), ids)[..., 0]
    by_type = [set(kept[ids == token].tolist()) for token in range(20)]
    assert all(len(values) == 1 for values in by_type)
    assert set().union(*by_type) == {0.0, 2.0}


def test_penalties_by_hand() -> None:
    made = noise(activation_l2=2.0, temporal_l2=3.0)
    x = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [3.0, 0.0]]])
    made.connections(x, 2)
    mean_square = (1 + 4 + 9 + 4 + 9 + 0) / 6
    mean_change = (4 + 0 + 0 + 4) / 4
    assert made.penalty().item() == pytest.approx(2 * mean_square + 3 * mean_change)


def test_pieces_of_a_window_get_the_noise_of_the_window() -> None:
    """Randomised truncation runs a window in pieces; masks and penalties are of the whole."""
    ids, x = torch.arange(20).expand(B, 20), torch.randn(B, 20, E)
    results = []
    for pieces in (1, 4):
        torch.manual_seed(0)
        made = noise(locked=True, dropout=0.5, word_dropout=0.5, dropconnect=0.5, temporal_l2=1.0)
        parts = zip(x.chunk(pieces, 1), ids.chunk(pieces, 1), strict=True)
        out = [made.connections(made.connections(made.embeddings(*part), 0), 2) for part in parts]
        results.append((torch.cat(out, 1), made.recurrent(torch.ones(8, 4), 0), made.penalty()))
        assert torch.equal(made.recurrent(torch.ones(8, 4), 0), results[-1][1])
        assert not torch.equal(made.recurrent(torch.ones(8, 4), 1), results[-1][1])
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(whole, cut)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_dropped_recurrent_weights_get_no_gradient(cell: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(NetworkConfig(7, 4, (6,), cell))  # type: ignore[arg-type]
    made = noise(layers=1, dropconnect=0.5)
    masks = []
    recurrent = made.recurrent

    def noted(from_hidden: torch.Tensor, depth: int) -> torch.Tensor:
        masks.append(recurrent(torch.ones_like(from_hidden), depth))
        return from_hidden * masks[-1]

    made.recurrent = noted  # type: ignore[method-assign]
    features, _ = model.features(torch.randint(7, (2, 5)), model.config.state_layout.zeros(2), made)
    torch.autograd.backward(features.sum())
    gradient = model.layer_weights()[0].from_hidden.grad
    assert gradient is not None
    assert (gradient[masks[0] == 0] == 0).all()
    assert (gradient[masks[0] > 0] != 0).any()


@pytest.mark.parametrize(("field", "value"), [("dropconnect", 1.0), ("word_dropout", -0.1), ("temporal_l2", -1.0)])
def test_impossible_values_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Regularisation(**{field: value})  # type: ignore[arg-type]  # values of several types
