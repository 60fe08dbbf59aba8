"""The diagrams of training/data/batching.py hold."""

import pytest
import torch

from training.data.batching import Batches, Partition

EOS = 99


def make(count: int = 50, partition: Partition = "sequential", reset: float = 0.0, seed: int = 0) -> Batches:
    return Batches(torch.arange(count, dtype=torch.int32), EOS, 2, 4, partition, reset, seed)


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_targets_are_inputs_one_token_later(partition: Partition) -> None:
    batches = make(partition=partition)
    for step in range(3 * batches.batches_per_epoch):
        batch = batches[step]
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        assert torch.equal(batch.targets[:, 0], torch.where(batch.inputs[:, 0] == EOS, 0, batch.inputs[:, 0] + 1))


def test_streams_go_on_from_window_to_window() -> None:
    batches = make()
    for step in range(1, batches.batches_per_epoch):
        assert torch.equal(batches[step].inputs[:, 0], batches[step - 1].targets[:, -1])
        assert not batches[step].fresh.any()
    assert batches[0].fresh.all()
    assert batches[batches.batches_per_epoch].fresh.all()  # the next epoch starts elsewhere


def test_first_window_predicts_the_first_token_from_eos() -> None:
    batch = make()[0]
    assert batch.inputs[0].tolist() == [EOS, 0, 1, 2]
    assert batch.targets[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_an_epoch_sees_every_token_once(partition: Partition) -> None:
    batches = make(partition=partition)
    for epoch in range(3):
        steps = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        seen = torch.cat([batches[step].targets.flatten() for step in steps]).sort().values
        assert len(seen) == 8 * batches.batches_per_epoch
        if epoch == 0 or partition == "sequential":
            assert torch.equal(seen, torch.arange(int(seen[0]), int(seen[0]) + len(seen)))  # no gap, no repeat
        else:
            assert len(set(seen.tolist())) == len(seen)  # the first window has gone back to the <eos> before the text
        assert len(seen) > 50 - 4 - 8  # all but an offset and an incomplete batch


def test_random_windows_follow_from_the_seed_and_start_fresh() -> None:
    one, same, other = make(partition="random"), make(partition="random"), make(partition="random", seed=1)
    steps = range(2 * one.batches_per_epoch)
    assert all(torch.equal(one[step].inputs, same[step].inputs) for step in steps)
    assert any(not torch.equal(one[step].inputs, other[step].inputs) for step in steps)
    assert all(one[step].fresh.all() for step in steps)


def test_any_step_is_the_same_out_of_order() -> None:
    forward, backward = make(200, reset=0.5), make(200, reset=0.5)
    ahead = [forward[step] for step in range(40)]
    for step in reversed(range(40)):
        assert torch.equal(ahead[step].inputs, backward[step].inputs)
        assert torch.equal(ahead[step].fresh, backward[step].fresh)


def with_eos(partition: Partition, reset: float = 0.0) -> Batches:
    """A stream in which every tenth token is `<eos>`."""
    ids = torch.arange(20_000, dtype=torch.int32)
    return Batches(torch.where(ids % 10 == 9, -1, ids), -1, 2, 20, partition, reset, 0)


def test_rows_leave_their_streams_for_a_window_that_begins_at_eos() -> None:
    batches, plain = with_eos("sequential", reset=0.25), with_eos("sequential")
    left = []
    for step in range(1, batches.batches_per_epoch):
        leaves = (batches[step].inputs != plain[step].inputs).any(1)
        left.append(leaves)
        assert (batches[step].inputs[leaves, 0] == -1).all()
        assert batches[step].fresh[leaves].all()
        assert batches[step + 1].fresh[leaves].all()  # the state of the excursion is not carried back
    assert abs(torch.cat(left).double().mean().item() - 0.25) < 0.05


def test_rows_stay_where_they_are_in_text_without_boundaries() -> None:
    batches, plain = make(20_000, reset=0.25), make(20_000)
    fresh = []
    for step in range(1, 2000):
        assert torch.equal(batches[step].inputs, plain[step].inputs)
        fresh.append(batches[step].fresh)
    assert abs(torch.cat(fresh).double().mean().item() - 0.25) < 0.03


def test_random_windows_begin_at_eos_where_one_is_near() -> None:
    batches = with_eos("random")
    for step in range(batches.batches_per_epoch):
        assert (batches[step].inputs[:, 0] == -1).all()
        assert torch.equal(batches[step].inputs[:, 1:], batches[step].targets[:, :-1])


def test_too_few_tokens_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="make batch_size or bptt_length smaller"):
        make(11)


def test_variable_windows_differ_in_length_and_leave_nothing_out() -> None:
    ids = torch.arange(4000, dtype=torch.int32)
    batches = Batches(ids, 10**6, 2, 20, "sequential", 0.0, 0, "variable")
    lengths = [batches[step].inputs.shape[1] for step in range(batches.batches_per_epoch)]
    assert len(set(lengths)) > 5
    assert sum(lengths) == 20 * batches.batches_per_epoch
    for step in range(1, batches.batches_per_epoch):
        assert torch.equal(batches[step].inputs[:, 0], batches[step - 1].targets[:, -1])
    again = Batches(ids, 10**6, 2, 20, "sequential", 0.0, 0, "variable")
    assert torch.equal(again[7].inputs, batches[7].inputs)
