"""A run becomes a checkpoint that does what its card says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.checkpoint.format import load_checkpoint
from models.config import NumberType
from training.card import worse_than_counting
from training.evaluate import evaluate_documents, evaluate_texts
from training.export import add_figures, best_model, export_run
from training.prepare import make_trainer
from training.run import Run, RunError, open_run


@pytest.fixture
def trained(make_run: Callable[..., Run]) -> Run:
    run = make_run()
    make_trainer(run).run(lambda _: None)
    return run


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_figures_on_the_card_are_those_of_the_weights_as_stored(
    trained: Run, storage: NumberType, tmp_path: Path
) -> None:
    about = export_run(trained, tmp_path / "out", storage)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.about == about
    assert loaded.storage == storage
    for label in ("validation", "test"):
        figures = evaluate_documents(loaded.model, trained.splits[label], loaded.tokenizer)
        assert about["figures"][label]["logprob"] == figures.logprob
    unquantised = evaluate_documents(best_model(trained), trained.splits["test"], loaded.tokenizer).logprob
    assert (about["figures"]["test"]["logprob"] == unquantised) == (storage == "float32")


def test_card_tells_what_it_is_with_units(trained: Run, tmp_path: Path) -> None:
    about = export_run(trained, tmp_path / "pets", command="make pets")
    card = load_checkpoint(tmp_path / "pets").card
    assert card.startswith("# pets\n")
    assert "perplexity per word" not in card  # its unit is the character
    for phrase in ("bits per character", "parameters", "minutes", "MB", "make pets", "`<unk>`"):
        assert phrase in card
    assert f"{about['figures']['test']['bits_per_character']:.4f}" in card
    assert str(tmp_path) not in card
    for sample in about["samples"]:
        assert sample["text"].strip("\n") in card


def test_unfinished_run_can_be_exported_after_its_first_validation(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run()
    trainer = make_trainer(run)
    with pytest.raises(RunError, match=r"nothing to export before the first validation \(step 20\)"):
        export_run(run, tmp_path / "out")
    trainer.run(lambda report: trainer.request_stop() if report.step == 25 else None)
    about = export_run(open_run(run.directory), tmp_path / "out")
    assert (about["steps"], about["best_step"]) == (25, 20)


def test_best_weights_are_exported_not_the_last(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run(training={"steps": 200, "validate_every": 1, "patience": 3, "learning_rate": 0.5})
    trainer = make_trainer(run)
    trainer.run(lambda _: None)
    export_run(run, tmp_path / "out", "float32")
    exported = load_checkpoint(tmp_path / "out").model
    last = dict(trainer.task.network.named_parameters())["output.weight"]
    assert not torch.equal(exported.output.weight, last)


def test_figures_are_added_to_a_card_without_touching_the_weights(trained: Run, tmp_path: Path) -> None:
    export_run(trained, tmp_path / "out")
    before = load_checkpoint(tmp_path / "out")
    figures = evaluate_texts(before.model, before.tokenizer, ["the cat sees fish.\n"], "line")
    add_figures(tmp_path / "out", "one line", figures, "line")
    after = load_checkpoint(tmp_path / "out")
    assert after.fingerprint == before.fingerprint
    assert list(after.about["figures"]) == ["validation", "test", "one line"]
    assert "| one line | `line` |" in after.card
    assert "| test | `never` |" in after.card


def test_split_counts_are_on_the_card(trained: Run, tmp_path: Path) -> None:
    about = export_run(trained, tmp_path / "out")
    split = trained.splits["train"]
    assert about["corpus"]["train"]["tokens"] == len(split.ids)
    assert about["corpus"]["train"]["characters"] == split.characters


def test_card_says_where_counting_is_better() -> None:
    row = {"perplexity": 6.7, "ngram_perplexity": 5.91}
    assert "test: 6.70 against 5.91" in worse_than_counting({"test": row})
    assert worse_than_counting({"test": row | {"perplexity": 5.0}}) == ""
