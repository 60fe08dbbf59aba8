"""A run whose files are damaged: never resumed in silence, mended where that is possible, else one message."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.cli import main
from training.export import best_model, export_run
from training.persistence import BEFORE, BEST, DAMAGED, LOG, TRAINER, read_saved
from training.prepare import make_trainer
from training.run import Run, RunError, open_run
from training.sealed import SUM, DamagedError, read_json, read_tensors, write_json, write_tensors

EVERY_FILE = ("run.json", "tokenizer.json", "train.ids", "train.json", "valid.ids", TRAINER, BEFORE, BEST)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that a command writes is not written into the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stopped(make_run: Callable[..., Run]) -> Run:
    """A run that was stopped at step 33 of 40: saved at 30 and 33, its best validation at step 20."""
    run = make_run(training={"checkpoint_every": 10})
    trainer = make_trainer(run)
    trainer.run(lambda report: trainer.request_stop() if report.step == 33 else None)
    return run


@pytest.fixture
def whole(make_run: Callable[..., Run]) -> Run:
    run = make_run("whole", training={"checkpoint_every": 10})
    make_trainer(run).run(lambda _: None)
    return run


def flip(path: Path, place: int) -> None:
    """Turns one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def reopened(directory: Path) -> tuple[str, list[str], "torch.Tensor | None"]:
    """What `resume` does before its first step: why it refuses, what was mended, and a weight."""
    try:
        run = open_run(directory)
        run.check_files()
        trainer = make_trainer(run)
        notes = trainer.load()
    except RunError as error:
        return str(error), [], None
    return "", notes, next(iter(trainer.task.network.parameters())).detach()


def resumed(directory: Path) -> dict[str, torch.Tensor]:
    """The tensors at the end of a resumed run."""
    run = open_run(directory)
    run.check_files()
    trainer = make_trainer(run)
    trainer.load()
    trainer.run(lambda _: None)
    return load_file(directory / TRAINER)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_no_flipped_bit_is_resumed_in_silence(stopped: Run, name: str, tmp_path: Path) -> None:
    """Refused with the name of the file; or mended, and said so; or nothing of what the run reads has changed."""
    saves = [load_file(stopped.directory / save)["model.embedding.weight"] for save in (TRAINER, BEFORE)]
    chooser = random.Random(name)
    copy = tmp_path / "copy"
    for _ in range(25):
        shutil.copytree(stopped.directory, copy)
        flip(copy / name, chooser.randrange(8 * (copy / name).stat().st_size))
        refused, notes, weight = reopened(copy)
        if weight is None:
            assert str(copy / name) in refused
        elif name == TRAINER:
            assert name in notes[0]
            assert torch.equal(weight, saves[1])
        else:
            assert name == BEFORE  # which is read when the last save is damaged alone
            assert torch.equal(weight, saves[0])
        shutil.rmtree(copy)


def test_from_a_damaged_last_save_a_run_goes_on_from_the_one_before(stopped: Run, whole: Run) -> None:
    flip(stopped.directory / TRAINER, 8 * ((stopped.directory / TRAINER).stat().st_size - 3))
    trainer = make_trainer(stopped)
    (note,) = trainer.load()
    assert "is damaged: its SHA-256" in note
    assert "going on from the save before it" in note
    assert trainer.position.step == 30
    assert (stopped.directory / DAMAGED).exists()
    trainer.run(lambda report: trainer.request_stop() if report.step == 31 else None)
    truncate(stopped.directory / TRAINER)  # the damaged save has not taken the place of the whole one before it
    assert same(resumed(stopped.directory), load_file(whole.directory / TRAINER))


def test_without_a_whole_save_a_run_can_train_again_from_its_first_step(
    stopped: Run, whole: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (TRAINER, BEFORE):
        truncate(stopped.directory / name)
    assert main(["resume", str(stopped.directory)]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert f"{stopped.directory / TRAINER}: is damaged" in printed
    assert f"remove {TRAINER}, {BEFORE} and {BEST}, and the run trains again from its first step" in printed
    for name in (TRAINER, BEFORE, BEST):
        (stopped.directory / name).unlink()
    assert same(resumed(stopped.directory), load_file(whole.directory / TRAINER))


def test_a_kill_between_the_renames_of_a_save_leaves_the_one_before(stopped: Run, whole: Run) -> None:
    (stopped.directory / TRAINER).replace(stopped.directory / BEFORE)
    saved = read_saved(stopped.directory)
    assert saved is not None
    assert saved.damage is None
    assert same(resumed(stopped.directory), load_file(whole.directory / TRAINER))


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_best_weights_are_mended_from_a_save_that_has_them(whole: Run, damage: Callable[[Path], None]) -> None:
    saved = read_saved(whole.directory)
    assert saved is not None
    assert saved.position.best_step == saved.position.step
    before = (whole.directory / BEST).read_bytes()
    damage(whole.directory / BEST)
    with pytest.raises(RunError, match="training resume"):
        best_model(whole)
    (note,) = make_trainer(whole).load()
    assert "written anew" in note
    assert (whole.directory / BEST).read_bytes() == before


def test_best_weights_that_are_lost_are_named(stopped: Run, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(stopped.directory / BEST)
    for command in ("resume", "export"):
        assert main([command, str(stopped.directory)]) == 2
        assert f"{stopped.directory / BEST}: is damaged" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["train.ids", "train.json", "tokenizer.json", "run.json"])
def test_a_truncated_file_is_one_message_that_names_it(
    stopped: Run, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(stopped.directory / name)
    for command in ("resume", "export"):
        assert main([command, str(stopped.directory)]) == 2
        printed = capsys.readouterr().err
        assert str(stopped.directory / name) in printed
        assert "--force" in printed
        assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(network=None), "cannot be read"),
        (lambda values: values["network"].update(hidden_sizes="wide"), "hidden_sizes"),
        (lambda values: values["training"].update(steps="many"), "steps: 'many'"),
        (lambda values: values["training"].update(steps=-1), "steps: -1 is less than 1"),
        (lambda values: values["training"].update(step=1), "step: unknown key"),
        (lambda values: values["network"].update(vocabulary_size=5), "tokens where run.json says 5"),
        (lambda values: values.update(task="cooking"), "task: 'cooking'"),
        (lambda values: values.update(storage="int3"), "storage: 'int3'"),
        (lambda values: values.pop("sources"), "sources"),
        (lambda values: values.update(format_version=9), "format_version: 9"),
        (lambda values: values.update(files=7), "cannot be read"),
    ],
)
def test_a_run_edited_to_nonsense_is_refused_by_field(
    stopped: Run, change: Callable[[dict[str, object]], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = read_json(stopped.directory / "run.json")
    change(values)
    write_json(stopped.directory / "run.json", values)
    assert main(["resume", str(stopped.directory)]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed
    assert "run.json" in printed or "unknown" in printed


def test_an_edit_on_purpose_is_taken_where_its_sum_is_removed(stopped: Run) -> None:
    path = stopped.directory / "run.json"
    path.write_text(path.read_text().replace('"description": null', '"description": "pets"'))
    with pytest.raises(RunError, match='edited on purpose, remove "sha256"'):
        open_run(stopped.directory)
    values = json.loads(path.read_text())
    del values[SUM]
    path.write_text(json.dumps(values))
    assert open_run(stopped.directory).config.description == "pets"


def test_runs_of_earlier_versions_go_on(stopped: Run, whole: Run, tmp_path: Path) -> None:
    """They have no sums, and no save before the last."""
    directory = stopped.directory
    for name in (TRAINER, BEST):
        tensors, metadata = read_tensors(directory / name)
        save_file(tensors, directory / name, metadata)
    (directory / BEFORE).unlink()
    values = json.loads((directory / "run.json").read_text())
    del values[SUM], values["files"]
    (directory / "run.json").write_text(json.dumps(values))
    assert same(resumed(directory), load_file(whole.directory / TRAINER))
    assert export_run(open_run(directory), tmp_path / "out")["steps"] == 40


def test_ids_outside_the_vocabulary_are_found_without_a_sum(stopped: Run) -> None:
    values = read_json(stopped.directory / "run.json")
    write_json(stopped.directory / "run.json", {name: values[name] for name in values if name != "files"})
    path = stopped.directory / "train.ids"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(RunError, match="ids outside the vocabulary"):
        open_run(stopped.directory).check_files()
    path.write_bytes(path.read_bytes() + b"\1")
    with pytest.raises(RunError, match=r"train.ids: is damaged: it has \d+ bytes, not"):
        open_run(stopped.directory).check_files()


def test_a_log_with_garbage_keeps_its_whole_lines(stopped: Run) -> None:
    path = stopped.directory / LOG
    lines = path.read_text().splitlines()
    path.write_bytes(b"\0\0\xff\n[1]\n7\n{}\n" + path.read_bytes())
    make_trainer(stopped).load()
    assert path.read_text().splitlines() == lines


@pytest.mark.parametrize("name", ["ngram.json", "speller.json", "speller.safetensors"])
def test_what_an_export_made_is_not_taken_when_damaged(tmp_path: Path, make_run: Callable[..., Run], name: str) -> None:
    words = [f"{a}{b}{c}" for a in "bdfg" for b in "aeio" for c in ("lm", "rn", "st", "nk")]
    (tmp_path / "words.txt").write_text("".join(f"the {word} sees the cat.\n" for word in words) * 4)
    corpus = {"train": [str(tmp_path / "words.txt")], "level": "word", "vocabulary_size": 10}
    run = make_run("words", corpus=corpus, training={"steps": 20})
    make_trainer(run).run(lambda _: None)
    about = export_run(run, tmp_path / "out")
    flip(run.directory / name, 8 * ((run.directory / name).stat().st_size - 5))
    with pytest.raises(RunError, match="Remove it") as raised:
        export_run(run, tmp_path / "out")
    Path(str(raised.value).split(":")[0]).unlink()
    assert export_run(run, tmp_path / "out") == about


def test_a_sum_is_of_all_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "few.safetensors"
    write_tensors(path, {"w": torch.arange(3.0)}, {"position": "0"})
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        flip(path, place)
        try:
            tensors, metadata = read_tensors(path)
        except DamagedError:
            pass
        else:  # the name of the sum itself: nothing else has changed
            assert torch.equal(tensors["w"], torch.arange(3.0))
            assert metadata["position"] == "0"
        path.write_bytes(whole)
