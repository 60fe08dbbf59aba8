"""Kills, full disks, a second process, numbers that run away, Ctrl-C: the message says what to do, nothing is lost."""

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

import training.commands.train
import training.export
import training.tasks.language_model
from models.checkpoint.format import load_checkpoint
from tests.training.conftest import REPOSITORY, TINY, start
from training.cli import main
from training.export import export_run
from training.locks import exporting_alone, training_alone
from training.persistence import BEST, TRAINER, read_saved
from training.prepare import make_trainer
from training.run import Run, RunError
from training.trainer import Trainer, TrainingError


@pytest.fixture
def folder(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a text in it."""
    assert text_file.parent == tmp_path
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def whole(make_run: Callable[..., Run]) -> dict[str, torch.Tensor]:
    """The tensors at the end of a run that nothing disturbs."""
    run = make_run("whole", training={"checkpoint_every": 10})
    make_trainer(run).run(lambda _: None)
    return load_file(run.directory / TRAINER)


def ends_the_same(run: Run, whole: dict[str, torch.Tensor]) -> bool:
    """Whether the run, resumed, ends with the same bits."""
    trainer = make_trainer(run)
    trainer.load()
    trainer.run(lambda _: None)
    found = load_file(run.directory / TRAINER)
    return found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> Iterator[None]:
    """The call with this number, counted from 0, of those that change files fails, and all later ones."""
    calls = iter(range(sys.maxsize))

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) >= number:
                raise error
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for owner, name in ((Path, "write_bytes"), (Path, "replace"), (os, "fsync")):
            patched.setattr(owner, name, wrapped(getattr(owner, name)))
        yield


@pytest.mark.parametrize("number", range(9))
def test_killed_at_any_step_of_a_save_a_run_ends_the_same(
    make_run: Callable[..., Run], whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = make_run(training={"checkpoint_every": 10})
    trainer = make_trainer(run)
    trainer.run(lambda report: trainer.request_stop() if report.step == 15 else None)
    trainer = make_trainer(run)
    trainer.load()
    with failing(monkeypatch, number, Killed()), pytest.raises(Killed):
        trainer.run(lambda _: None)
    saved = read_saved(run.directory)
    assert saved is not None
    assert saved.damage is None
    assert saved.position.step in (10, 15, 20)
    assert ends_the_same(run, whole)


@pytest.mark.parametrize("number", [0, 3, 4, 6])
def test_a_full_disk_is_a_message_and_the_run_goes_on(
    make_run: Callable[..., Run], whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = make_run(training={"checkpoint_every": 10})
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with failing(monkeypatch, number, full), pytest.raises(OSError, match="No space left") as raised:
        make_trainer(run).run(lambda _: None)
    message = str(raised.value)
    assert message.startswith(f"{run.directory}: No space left on device.")
    assert ("The run is saved as of step" if number > 3 else "Nothing was saved yet") in message
    assert f"training resume {run.directory}" in message
    with failing(monkeypatch, 0, full), pytest.raises(OSError, match=r"No space left on device\. "):
        make_trainer(run).load()
    assert ends_the_same(run, whole)


def test_a_disk_that_is_full_from_the_first_byte_leaves_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "4", *TINY]
    with failing(monkeypatch, 0, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        assert main(options) == 1
    printed = capsys.readouterr().err
    assert "runs/pets: No space left on device. The run was not made: mend that and repeat the command" in printed
    assert not (folder / "runs/pets").exists()
    assert main(options) == 0


def test_a_write_that_the_system_refuses_is_a_message(folder: Path) -> None:
    """The state of the trainer is larger than the file may be; the rest of the run is not."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from training.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "40", *TINY]
    done = subprocess.run(
        [sys.executable, "-c", limited, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large. Nothing was saved yet" in done.stderr
    assert "Traceback" not in done.stderr
    assert main(["resume", "runs/pets", "--threads", "1"]) == 0


def poisoned(trainer: Trainer, step: int) -> Callable[..., None]:
    """A report that makes a weight NaN after a step."""

    def poison(report: Any) -> None:
        if report.step == step:
            with torch.no_grad():
                dict(trainer.task.network.named_parameters())["output.bias"][0] = math.nan

    return poison


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (33, "step 33: the gradient is not finite"),
        (30, "step 30: the weights are not finite"),
        (40, "step 40: the validation is nan"),
    ],
)
def test_numbers_that_run_away_leave_the_last_good_save(
    make_run: Callable[..., Run], whole: dict[str, torch.Tensor], tmp_path: Path, step: int, message: str
) -> None:
    run = make_run(training={"checkpoint_every": 10})
    trainer = make_trainer(run)
    with pytest.raises(TrainingError, match=message) as raised:
        trainer.run(poisoned(trainer, step))
    assert "smaller learning_rate or clip_norm" in str(raised.value)
    assert f"The run is saved as of step {20 if step == 30 else 30}" in str(raised.value)
    assert f"training export {run.directory}" in str(raised.value)
    export_run(run, tmp_path / "out")
    assert ends_the_same(run, whole)


def test_a_validation_that_is_not_finite_ends_the_run(
    make_run: Callable[..., Run], whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(training={"checkpoint_every": 10})
    trainer = make_trainer(run)
    with monkeypatch.context() as patched:
        patched.setattr(trainer.task, "validate", lambda: math.nan)
        with pytest.raises(TrainingError, match=r"step 20: the validation is nan.*saved as of step 10"):
            trainer.run(lambda _: None)
    assert not (run.directory / BEST).exists()
    assert ends_the_same(run, whole)


def test_a_second_process_is_refused_and_a_killed_one_holds_nobody_up(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "100000", "--patience", "99999", *TINY]
    process = start(options, folder)
    while not (folder / "runs/pets" / TRAINER).exists():
        assert process.poll() is None
    for arguments in (["resume", "runs/pets"], [*options, "--force"], [*options, "--run-dir", "runs/../runs/pets"]):
        assert main(arguments) == 2
        assert "another process is training in it. Wait until it has ended" in capsys.readouterr().err
    assert main(["export", "runs/pets", "--out", "checkpoints/so-far"]) in (0, 2)  # 2 before the first validation
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    with training_alone(folder / "runs/pets"):
        pass
    assert list((folder / "runs").glob(".pets*.lock"))


def test_trainings_in_different_directories_do_not_wait(tmp_path: Path) -> None:
    with (
        training_alone(tmp_path / "a"),
        training_alone(tmp_path / "b"),
        exporting_alone(tmp_path / "a", pytest.fail),
        pytest.raises(RunError, match="another process"),
        training_alone(tmp_path / "a"),
    ):
        pytest.fail("two in one directory")


def test_a_run_that_cannot_be_written_to_is_exported_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with exporting_alone(tmp_path / "a", pytest.fail):
        pass
    with pytest.raises(OSError, match="Read-only"), training_alone(tmp_path / "a"):
        pytest.fail("without a lock")


def test_a_second_export_waits_for_the_first(tmp_path: Path) -> None:
    first = exporting_alone(tmp_path / "a", pytest.fail)
    first.__enter__()
    with exporting_alone(tmp_path / "a", lambda: cast(None, first.__exit__(None, None, None))):
        pass


def interrupt(*_arguments: Any, **_options: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (training.export, "KneserNey"),
        (training.export, "write_json"),
        (training.export, "load_checkpoint"),
        (training.export, "evaluate_documents"),
        (training.export, "make_samples"),
        (training.export, "render_card"),
    ],
)
def test_ctrl_c_in_an_export_leaves_the_run_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], owner: Any, name: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupt)
        assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "20", *TINY]) == 130
        printed = capsys.readouterr().err
        assert "interrupted; the run is whole. Export it with" in printed
        assert "python -m training export runs/pets" in printed
        assert not (folder / "checkpoints/pets").exists()
        (folder / "runs/pets/ngram.json").unlink(missing_ok=True)
        assert main(["export", "runs/pets"]) == 130
    assert main(["export", "runs/pets"]) == 0
    exported = (folder / "checkpoints/pets/model.safetensors").read_bytes()
    assert main(["resume", "runs/pets", "--out", "checkpoints/again"]) == 0
    assert (folder / "checkpoints/again/model.safetensors").read_bytes() == exported
    assert load_checkpoint(folder / "checkpoints/pets").about["steps"] == 20


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (training.commands.train, "prepare_run", "the run was not made: repeat the command"),
        (training.tasks.language_model.LanguageModelTask, "loss", "training resume runs/pets"),
        (training.commands.train, "check_writable", "interrupted"),
    ],
)
def test_ctrl_c_elsewhere_is_a_message_too(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    message: str,
) -> None:
    monkeypatch.setattr(owner, name, interrupt)
    assert folder.exists()
    assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "20", *TINY]) == 130
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
