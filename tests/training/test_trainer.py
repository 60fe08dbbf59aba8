"""The loop: it learns, stops the gradient where it should, ends when it should, and goes on from where it was."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.config import NetworkConfig
from training.config import TrainingConfig
from training.distributed import ALONE
from training.persistence import Report
from training.prepare import make_trainer
from training.run import Run
from training.tasks.language_model import LanguageModelTask
from training.trainer import Trainer, TrainingError


def losses_of(run: Run) -> list[float]:
    losses: list[float] = []
    make_trainer(run).run(lambda report: losses.append(report.loss or math.nan))
    return losses


def final_tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.directory / "trainer.safetensors")


def test_loss_goes_down(make_run: Callable[..., Run]) -> None:
    run = make_run(training={"steps": 150, "learning_rate": 1e-2, "warmup_steps": 10, "dropout": 0.0})
    reports: list[Report] = []
    position = make_trainer(run).run(reports.append)
    losses = [report.loss for report in reports if report.loss is not None]
    assert losses[0] == pytest.approx(math.log(run.config.network.vocabulary_size), abs=0.5)
    assert sum(losses[-10:]) / 10 < 1.2
    assert position.stopped == "the schedule ended"
    assert position.best is not None
    assert position.best < 1.2


def test_log_has_steps_and_validations(make_run: Callable[..., Run]) -> None:
    run = make_run()
    make_trainer(run).run(lambda _: None)
    entries = [json.loads(line) for line in (run.directory / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss_nats" in entry] == [10, 20, 30, 40]
    assert [entry["step"] for entry in entries if "valid_nats" in entry] == [20, 40]


def test_gradient_stops_at_the_edge_of_the_window(make_run: Callable[..., Run]) -> None:
    trainer = make_trainer(make_run())
    trainer._step(0.0)
    carried = trainer._state
    assert carried.grad_fn is None
    assert not carried.requires_grad
    assert carried.abs().max() > 0  # it is carried, not zeroed


def test_same_seed_same_weights_other_seed_others(make_run: Callable[..., Run]) -> None:
    one, same = make_run("one"), make_run("same")
    other = make_run("other", training={"seed": 1})
    for run in (one, same, other):
        make_trainer(run).run(lambda _: None)
    assert all(torch.equal(tensor, final_tensors(same)[name]) for name, tensor in final_tensors(one).items())
    assert not torch.equal(final_tensors(one)["model.output.weight"], final_tensors(other)["model.output.weight"])


REGULARISED = {
    "locked": True,
    "word_dropout": 0.1,
    "dropconnect": 0.2,
    "activation_l2": 1.0,
    "temporal_l2": 1.0,
    "truncation": "variable",
}
NT_ASGD = {"optimizer": "sgd", "learning_rate": 1.0, "averaging": "triggered", "validate_every": 1, "patience": 99}

KINDS_OF_TRAINING = {
    "rnn": {"network": {"cell": "rnn"}},
    "gru, random windows": {"network": {"cell": "gru"}, "training": {"partition": "random"}},
    "random windows": {"training": {"partition": "random"}},
    "one-cycle": {"training": {"schedule": "one-cycle"}},
    "sgd, constant": {"training": {"optimizer": "sgd", "schedule": "constant", "learning_rate": 1.0}},
    "NT-ASGD": {"training": {**NT_ASGD, "schedule": "constant"}},
    "NT-ASGD, cosine": {"training": NT_ASGD},
    "ema": {"training": {"averaging": "ema"}},
    "all regularisation": {"training": REGULARISED},
    "randomised truncation": {"training": {"truncation": "randomised"}},
    "sampled softmax": {"training": {"sampled_softmax": 8, "full_softmax_from": 0.6}},
    "orthogonal": {"training": {"initialisation": "orthogonal", "forget_bias": 1.0}},
}


@pytest.mark.parametrize("tables", KINDS_OF_TRAINING.values(), ids=KINDS_OF_TRAINING.keys())
def test_stopped_and_resumed_equals_uninterrupted(
    make_run: Callable[..., Run], tables: dict[str, dict[str, object]]
) -> None:
    tables = tables | {"training": {**tables.get("training", {}), "checkpoint_every": 7}}
    whole, parts = make_run("whole", **tables), make_run("parts", **tables)
    make_trainer(whole).run(lambda _: None)

    first = make_trainer(parts)
    first.run(lambda report: first.request_stop() if report.step == 11 else None)
    assert first.position.step == 11
    assert first.position.stopped is None
    second = make_trainer(parts)
    second.load()
    second.run(lambda _: None)

    expected, found = final_tensors(whole), final_tensors(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (whole.directory / "best.safetensors").read_bytes() == (parts.directory / "best.safetensors").read_bytes()
    logs = [(run.directory / "log.jsonl").read_text().splitlines() for run in (whole, parts)]
    assert [json.loads(line)["step"] for line in logs[0]] == [json.loads(line)["step"] for line in logs[1]]


def test_run_without_a_save_resumes_from_the_start(make_run: Callable[..., Run]) -> None:
    run = make_run()
    (run.directory / "log.jsonl").write_text('{"step": 10, "loss_nats": 1.0}\n{"step": 20, "lo')
    trainer = make_trainer(run)
    trainer.load()
    assert trainer.position.step == 0
    assert (run.directory / "log.jsonl").read_text() == ""


def test_early_stopping_says_why_and_keeps_the_best(make_run: Callable[..., Run]) -> None:
    run = make_run(training={"steps": 1000, "validate_every": 1, "patience": 3, "learning_rate": 0.5})
    position = make_trainer(run).run(lambda _: None)
    assert position.stopped == "no improvement in 3 validations"
    assert position.best_step == position.step - 3


def test_gradient_that_is_not_finite_ends_the_run_with_advice(tmp_path: Path) -> None:
    ids = torch.randint(2, 8, (500,), dtype=torch.int32)
    network = NetworkConfig(8, 4, (4,))
    config = TrainingConfig(steps=5, batch_size=2, bptt_length=8)
    task = LanguageModelTask(network, config, ids, ids, 1)
    trainer = Trainer(task, config, tmp_path)
    with torch.no_grad():
        task.network.output.bias[0] = math.nan
    with pytest.raises(TrainingError, match="step 0: the gradient is not finite"):
        trainer.run(lambda _: None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("dropout", 1.0), ("learning_rate", -1.0), ("max_minutes", 0.0), ("reset_probability", math.nan)],
)
def test_impossible_configuration_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        TrainingConfig(**({"steps": 1} | {field: value}))  # type: ignore[arg-type]  # values of several types


def test_averaging_begins_once_validation_stops_falling_and_is_what_is_exported(make_run: Callable[..., Run]) -> None:
    run = make_run(training={**NT_ASGD, "learning_rate": 4.0, "schedule": "constant", "steps": 60, "dropout": 0.0})
    trainer = make_trainer(run)
    position = trainer.run(lambda _: None)
    assert position.averaged > 0
    assert position.averaged < position.step - 5
    tensors = final_tensors(run)
    assert not torch.equal(tensors["average.output.weight"], tensors["model.output.weight"])
    if position.best_step == position.step:
        best = load_file(run.directory / "best.safetensors")
        assert torch.equal(best["output.weight"], tensors["average.output.weight"])


def test_short_windows_take_short_steps(make_run: Callable[..., Run]) -> None:
    """The rate is scaled with the window's length; reports tell the schedule's own."""
    run = make_run(training={"truncation": "variable", "schedule": "constant", "warmup_steps": 0})
    task = LanguageModelTask.open(run, ALONE)
    trainer = Trainer(task, run.config.training, run.directory)
    lengths, rates = [], []
    for _ in range(6):
        lengths.append(task.batches[trainer.position.step].inputs.shape[1])
        report = trainer._step(0.0)
        rates.append(trainer._optimizer.param_groups[0]["lr"] / report.learning_rate)
        trainer.position = replace(trainer.position, step=report.step)
    assert len(set(lengths)) > 1
    assert rates == pytest.approx([length / 16 for length in lengths])
