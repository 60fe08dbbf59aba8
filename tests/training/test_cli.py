"""The command line from the outside: what it prints, its exit status, and runs that are interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint.format import load_checkpoint
from tests.training.conftest import REPOSITORY, TINY, start
from training.cli import main


def last_step(run: Path) -> int:
    """The last step in the log of a run that may not have begun."""
    log = run / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for_step(run: Path, step: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while last_step(run) < step:
        assert time.monotonic() < deadline, f"step {step} never came"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a text in it."""
    assert text_file.parent == tmp_path
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_exports_a_checkpoint_and_says_what_to_do_next(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "40", *TINY]) == 0
    printed = capsys.readouterr().out
    for phrase in ("step     40  validation", "nats per token", "bits/character", "make serve"):
        assert phrase in printed
    assert load_checkpoint(folder / "checkpoints/pets").about["sources"]["train"] == ["pets.txt"]
    assert (folder / "runs/pets/curve.png").exists()

    assert main(["evaluate", "checkpoints/pets", "pets.txt", "--reset", "line", "--json", "--card", "all of it"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["sentences"] == 400
    assert figures["tokens"] == len((folder / "pets.txt").read_text())
    assert "all of it" in load_checkpoint(folder / "checkpoints/pets").card

    assert main(["export", "runs/pets", "--out", "checkpoints/small", "--storage", "int8"]) == 0
    assert load_checkpoint(folder / "checkpoints/small").storage == "int8"
    assert main(["resume", "runs/pets"]) == 0  # a finished run is only exported again
    assert main(["plot", "runs/pets"]) == 0


@pytest.mark.parametrize(
    "settings",
    [
        "--optimizer adamw --schedule cosine",
        "--optimizer adamw --schedule one-cycle --averaging ema",
        "--optimizer sgd --schedule constant --averaging triggered --learning-rate 1 --validate-every 10",
        "--optimizer sgd --schedule range --truncation randomised",
    ],
)
def test_killed_run_resumes_to_the_same_weights_bit_for_bit(folder: Path, settings: str) -> None:
    options = ["train", "pets.txt", "--steps", "160", *TINY, *settings.split()]
    assert main([*options, "--out", "checkpoints/whole"]) == 0

    killed = start([*options, "--out", "checkpoints/parts"], folder)
    wait_for_step(folder / "runs/parts", 50)
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL
    assert not (folder / "checkpoints/parts").exists()
    resumed = start(["resume", "runs/parts"], folder)
    assert resumed.wait(120) == 0
    assert "continuing runs/parts after step" in (folder / "printed.txt").read_text()

    expected, found = (load_file(folder / f"runs/{name}/trainer.safetensors") for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    weights = [(folder / f"checkpoints/{name}/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_ctrl_c_saves_and_says_how_to_go_on(folder: Path) -> None:
    process = start(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "100000", *TINY], folder)
    wait_for_step(folder / "runs/pets", 20)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    printed = (folder / "printed.txt").read_text()
    assert "python -m training resume runs/pets" in printed
    assert "Traceback" not in printed
    assert (folder / "runs/pets/trainer.safetensors").exists()
    assert main(["export", "runs/pets"]) == 0


def test_existing_run_is_never_overwritten_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "20", *TINY]
    assert main(options) == 0
    before = (folder / "runs/pets/trainer.safetensors").read_bytes()
    capsys.readouterr()
    assert main([*options, "--seed", "5"]) == 2
    printed = capsys.readouterr().err
    assert "python -m training resume runs/pets" in printed
    assert "--force" in printed
    assert (folder / "runs/pets/trainer.safetensors").read_bytes() == before
    assert main([*options, "--seed", "5", "--force"]) == 0
    assert (folder / "runs/pets/trainer.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.txt", "--out", "c/x"], "nothing.txt: no such file or folder"),
        (["train", "pets.txt"], "--out is missing"),
        (["train", "--out", "c/x"], "no text to train on"),
        (["train", "pets.txt", "--out", "pets.txt/x"], "pets.txt: cannot be written to"),
        (["train", "pets.txt", "--out", "c/x", "--hidden-sizes", "big"], "--hidden-sizes: 'big' is not a list"),
        (["train", "pets.txt", "--out", "c/x", "--dropout", "2"], "dropout: 2.0 is not a probability"),
        (["train", "pets.txt", "--out", "c/x", "--batch-size", "9999"], "make batch_size or bptt_length smaller"),
        (["train", "pets.txt", "--out", "c/x", "--batch-size", "0"], "batch_size: 0 is less than 1"),
        (["train", "pets.txt", "--out", "c/x", "--bptt-length", "0"], "bptt_length: 0 is less than 1"),
        (["train", "pets.txt", "--out", "c/x", "--device", "gpu"], "device: 'gpu' is not cpu or cuda"),
        (["train", "pets.txt", "--out", "c/x", "--output-layers", "big"], "--output-layers: 'big' is not a list"),
        (["train", "pets.txt", "--out", "c/x", "--one-hot", "--tied"], "one_hot: there is no embedding matrix"),
        (["train", "pets.txt", "--out", "c/x", "--one-hot", "--embedding-size", "8"], "one_hot: embedding_size"),
        (["train", "pets.txt", "--out", "c/x", "--level", "bpe", "--vocabulary-size", "99"], "less than the 256 bytes"),
        (
            ["train", "pets.txt", "--out", "c/x", "--bptt-length", "1", "--truncation", "variable"],
            "need 2 or more",
        ),
        (
            ["train", "pets.txt", "--out", "c/x", "--shuffle-lines", "--truncation", "variable"],
            "need the partition sequential",
        ),
        (["train", "pets.txt", "--out", "c/x", "--recipe", "bad.toml"], "step: unknown key"),
        (["train", "pets.txt", "--out", "c/x", "--recipe", "narrow.toml"], "hidden_sizes"),
        (["train", "binary.txt", "--out", "c/x"], "binary.txt: looks like a binary file"),
        (["train", "short.txt", "--out", "c/x"], "too short"),
        (["evaluate", "c/none", "pets.txt"], "config.json: is missing"),
        (["resume", "runs/none"], "not a run"),
        (["export", "runs/none"], "not a run"),
        (["stats", "nothing.txt"], "no such file"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_user_errors_say_what_is_wrong(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.toml").write_text("[training]\nstep = 3\n")
    (folder / "narrow.toml").write_text("[network]\nhidden_sizes = []\ntied = true\n")
    (folder / "binary.txt").write_bytes(b"\0\1\2")
    (folder / "short.txt").write_text("hi\n")
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (folder / "runs/x").exists()


def test_unknown_option_and_missing_log(folder: Path) -> None:
    assert main(["train", "--no-such-option"]) == 2
    assert main(["plot", str(folder)]) == 2
    assert main(["--help"]) == 0


def test_stats_prints_figures_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "pets.txt", "--json", "--plot", "zipf.png"]) == 0
    statistics = json.loads(capsys.readouterr().out)
    assert statistics["lines"] == 400
    assert (folder / "zipf.png").exists()
    assert main(["stats", "pets.txt"]) == 0
    assert "Zipf exponent" in capsys.readouterr().out


def test_recipe_with_a_data_folder(folder: Path) -> None:
    (folder / "mine.toml").write_text(
        '[corpus]\ntrain = ["pets.txt"]\nlevel = "char"\n[training]\nsteps = 20\nvalidate_every = 10\n'
        "[network]\nhidden_sizes = [8]\nembedding_size = 8\n"
    )
    (folder / "data").mkdir()
    (folder / "pets.txt").rename(folder / "data/pets.txt")
    assert main(["train", "--recipe", "mine.toml", "--data", "data", "--threads", "1", "--bptt-length", "9"]) == 0
    about = load_checkpoint(folder / "checkpoints/mine").about
    assert about["training"]["bptt_length"] == 9
    assert about["training"]["steps"] == 20
    assert about["sources"]["train"] == ["pets.txt"]


def together(arguments: list[str], folder: Path) -> None:
    """Two processes of `torchrun` with the command line, to their end."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training"]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_learn_what_one_does_and_resume(folder: Path) -> None:
    """Gradients are the same means of the same rows, added in another order."""
    train = ["train", "pets.txt", *TINY, "--dropout", "0", "--seed", "3", "--steps", "41"]
    assert main([*train, "--out", "checkpoints/one"]) == 0
    together([*train, "--out", "checkpoints/two", "--run-dir", "runs/two"], folder)
    one, two = (load_file(folder / "runs" / name / "trainer.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-3)
    assert load_checkpoint(folder / "checkpoints/two").about["steps"] == 41
    logged = [json.loads(line)["step"] for line in (folder / "runs/two/log.jsonl").read_text().splitlines()]
    assert logged == [10, 20, 20, 30, 40, 40, 41]  # by one process alone; validations at 20, 40 and the end
    together(["resume", "runs/two"], folder)


def test_rows_that_cannot_be_divided_are_refused(folder: Path) -> None:
    with pytest.raises(AssertionError, match="cannot be divided among 2 processes"):
        together(["train", "pets.txt", *TINY, "--batch-size", "3", "--steps", "4", "--out", "checkpoints/x"], folder)


def test_counting_is_compared_on_the_same_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "20", *TINY]) == 0
    (folder / "held.txt").write_text("the cat likes fish.\na dog wants a bone.\n")
    capsys.readouterr()
    found = []
    for order in ("1", "5"):
        assert main(["ngram", "checkpoints/pets", "held.txt", "--train", "pets.txt", "--order", order, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["tokens"] == found[1]["tokens"] == len((folder / "held.txt").read_text())
    assert found[1]["perplexity"] < found[0]["perplexity"] / 3
    assert main(["ngram", "checkpoints/pets", "held.txt", "--train", "pets.txt", "--card", "nobody"]) == 2
    about = load_checkpoint(folder / "checkpoints/pets").about
    assert all(row["ngram_perplexity"] > 1 for row in about["figures"].values())


def test_runs_are_compared_and_checkpoints_averaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, steps in (("short", "20"), ("long", "60")):
        assert main(["train", "pets.txt", "--out", f"checkpoints/{name}", "--steps", steps, *TINY]) == 0
    capsys.readouterr()
    assert main(["compare", "runs/short", "runs/long", "--json", "--plot", "both.png"]) == 0
    short, long = json.loads(capsys.readouterr().out)
    assert (short["steps"], long["steps"]) == (20, 60)
    assert long["best_perplexity"] < short["best_perplexity"]
    assert (folder / "both.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "runs/short", "runs/long"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("long") < printed.index("short")  # best first

    assert main(["average", "checkpoints/short", "checkpoints/long", "--out", "checkpoints/mean"]) == 0
    models = [load_checkpoint(folder / "checkpoints" / name).model for name in ("short", "long", "mean")]
    one, other, mean = (model.output.weight for model in models)
    torch.testing.assert_close(mean, (one + other) / 2, rtol=0.02, atol=0.01)  # stored in bfloat16


def test_range_test_finds_a_rate_that_teaches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lr-range", "pets.txt", "--steps", "80", "--plot", "range.png", "--threads", "1"]) == 0
    rate = float(capsys.readouterr().out.split("fastest at ")[1].split(";")[0])
    assert 1e-4 < rate < 1
    assert (folder / "range.png").exists()
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


def test_other_checkpoints_are_not_replaced_by_a_new_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "4", *TINY]) == 0
    assert main(["train", "pets.txt", "--out", "checkpoints/", "--steps", "4", *TINY]) != 0
    assert "name another place" in capsys.readouterr().err
    assert not (folder / "runs/checkpoints").exists()
    assert load_checkpoint(folder / "checkpoints/pets")


def test_force_deletes_runs_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "precious").mkdir()
    (folder / "precious/letter.txt").write_text("Dear")
    options = ["train", "pets.txt", "--out", "checkpoints/x", "--steps", "4", "--force", *TINY]
    assert main([*options, "--run-dir", "precious"]) == 2
    assert "exists and is not a run" in capsys.readouterr().err
    assert (folder / "precious/letter.txt").read_text() == "Dear"
    for _ in range(2):
        assert main([*options, "--run-dir", "runs/again"]) == 0


def test_lines_of_two_words_are_trained_on(folder: Path) -> None:
    """No sentence is as long as the n-grams that are counted beside the network."""
    (folder / "names.txt").write_text("Ann Lee\nBo Lee\nAnn Ray\n" * 150)
    options = ["--level", "split", "--boundary", "line", "--steps", "20"]
    assert main(["train", "names.txt", "--out", "checkpoints/names", *options, *TINY]) == 0
    assert load_checkpoint(folder / "checkpoints/names").about["figures"]["test"]["ngram_perplexity"] > 1


def test_a_new_speller_is_told_of_in_the_card(folder: Path) -> None:
    words = [f"{a}{b}{c}" for a in "bdfg" for b in "aeio" for c in ("lm", "rn", "st", "nk")]
    (folder / "pets.txt").write_text("".join(f"the {word} sees the cat.\n" for word in words) * 4)
    options = ["--level", "word", "--vocabulary-size", "10", "--steps", "20", "--test-fraction", "0.2"]
    assert main(["train", "pets.txt", "--out", "checkpoints/rare", *options, *TINY]) == 0
    (folder / "more.txt").write_text("the zebra sees the gnu.\n" + "".join(f"the {word} sees.\n" for word in words))
    assert main(["speller", "checkpoints/rare", "more.txt", "--valid", "pets.txt", "--threads", "1"]) == 0
    taught = load_checkpoint(folder / "checkpoints/rare")
    assert taught.speller is not None
    assert taught.speller.lexicon is not None
    assert f"{len(taught.speller.lexicon):,} words in its lexicon" in taught.card
    assert taught.about["figures"]["test"]["bits_per_character"] is None
    assert main(["evaluate", "checkpoints/rare", "pets.txt", "--card", "test"]) == 0
    assert load_checkpoint(folder / "checkpoints/rare").about["figures"]["test"]["bits_per_character"] > 0


def test_training_goes_on_from_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = (folder / "pets.txt").read_text()
    (folder / "more.txt").write_text(pets.replace("fish", "mice"))
    tiny = ["--batch-size", "4", "--bptt-length", "16", "--threads", "1", "--validate-every", "10", "--dropout", "0"]
    assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "300", *TINY]) == 0
    assert main(["train", "more.txt", "--out", "checkpoints/new", "--steps", "10", *tiny, "--level", "char"]) == 0
    fine = ["train", "more.txt", "--start-from", "checkpoints/pets", "--steps", "10", "--learning-rate", "1e-3"]
    assert main([*fine, "--out", "checkpoints/fine", *tiny]) == 0
    made = {name: load_checkpoint(folder / "checkpoints" / name) for name in ("pets", "new", "fine")}
    assert made["fine"].tokenizer.tokens == made["pets"].tokenizer.tokens
    assert made["fine"].model.config == made["pets"].model.config
    perplexity = {name: one.about["figures"]["test"]["perplexity"] for name, one in made.items()}
    assert perplexity["fine"] < 0.7 * perplexity["new"]
    assert "the weights of pets" in made["fine"].card

    smaller = [*fine, "--vocabulary-size", "20", "--out", "checkpoints/small", *tiny]
    assert main(smaller) == 0
    assert len(load_checkpoint(folder / "checkpoints/small").tokenizer) == 20
    capsys.readouterr()
    for option in (["--level", "word"], ["--hidden-sizes", "8"]):
        assert main([*fine, *option, "--out", "checkpoints/x", *tiny]) == 2
    printed = capsys.readouterr().err
    assert "level: word cannot be" in printed
    assert "pets is of another network" in printed


def test_fine_tuning_keeps_the_speller_and_adds_words(folder: Path) -> None:
    words = [f"{a}{b}{c}" for a in "bdfg" for b in "aeio" for c in ("lm", "rn", "st", "nk")]
    (folder / "old.txt").write_text("".join(f"the {word} sees the cat.\n" for word in words) * 4)
    (folder / "new.txt").write_text("the cat sees the zebra.\nthe zebra sees the cat.\n" * 150)
    options = ["--level", "word", "--vocabulary-size", "10", "--steps", "20", *TINY]
    assert main(["train", "old.txt", "--out", "checkpoints/old", *options]) == 0
    fine = ["--start-from", "checkpoints/old", "--steps", "10", "--batch-size", "4", "--bptt-length", "16"]
    assert main(["train", "new.txt", "--out", "checkpoints/new", *fine, "--threads", "1"]) == 0
    old, new = (load_checkpoint(folder / "checkpoints" / name).speller for name in ("old", "new"))
    assert old is not None
    assert new is not None
    assert old.lexicon is not None
    assert new.lexicon is not None
    assert new.lexicon.counts.keys() == old.lexicon.counts.keys() | {" zebra"}
    assert new.spelled_logprobs([" balm"]) == old.spelled_logprobs([" balm"])
    assert new.logprobs([" zebra"])[0] > old.logprobs([" zebra"])[0] + 2


def test_gradient_flow_writes_figures_and_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden-size", "16", "--distance", "20", "--steps", "4", "--cells", "lstm,rnn-tanh", "--threads", "1"]
    assert main(["gradient-flow", "pets.txt", "--out", "flow.json", *options]) == 0
    flows = json.loads((folder / "flow.json").read_text())["flows"]
    assert [(flow["kind"], flow["steps"]) for flow in flows] == [
        ("rnn-tanh", 0), ("rnn-tanh", 4), ("lstm", 0), ("lstm", 4),
    ]  # fmt: skip
    assert (folder / "flow.png").exists()
    assert "factor a token" in capsys.readouterr().out
    assert main(["gradient-flow", "pets.txt", "--cells", "quantum"]) == 2


def test_a_word_model_learns_to_spell_what_its_vocabulary_leaves_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    syllables = ("ba", "di", "ko", "lu", "me")
    rare = [a + b + c for a in syllables for b in syllables for c in syllables]
    (folder / "pets.txt").write_text("".join(f"the {word} sees the cat.\nthe cat sees.\n" for word in rare) * 2)
    options = ["--level", "word", "--vocabulary-size", "12", "--min-count", "3", "--steps", "20"]
    assert main(["train", "pets.txt", "--out", "checkpoints/rare", *options, *TINY]) == 0
    trained = load_checkpoint(folder / "checkpoints/rare")
    assert trained.speller is not None
    known, odd = trained.speller.logprobs([" bakolu", " xqzwvj"])
    assert known > odd + 5
    row = trained.about["figures"]["test"]
    assert row["bits_per_character"] > row["bits_per_character_closed"]

    capsys.readouterr()
    assert main(["evaluate", "checkpoints/rare", "pets.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_character"] > found["bits_per_character_closed"]
    (folder / "held-out.txt").write_text("the bakoko sees the lubame.\nthe zebra sees.\n")
    assert main(["speller", "checkpoints/rare", "pets.txt", "--valid", "held-out.txt", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "125 types are outside the vocabulary" in printed
    assert "3 unknown words in the validation text" in printed
    taught = load_checkpoint(folder / "checkpoints/rare").speller
    assert taught is not None
    assert taught.lexicon is not None
    assert taught.lexicon.probability(" bakoko") > 0
    assert taught.logprobs([" bakoko"])[0] > taught.logprobs([" bakokd"])[0] + 2


def test_tensorboard_gets_the_curves(folder: Path) -> None:
    assert main(["train", "pets.txt", "--out", "checkpoints/pets", "--steps", "20", "--tensorboard", *TINY]) == 0
    assert list((folder / "runs/pets/tensorboard").glob("events.out.tfevents.*"))
