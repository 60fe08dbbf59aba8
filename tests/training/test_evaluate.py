"""The figures are exact: they equal sums that are computed another way."""

import math

import pytest
import torch

from models.decoding.reference import score_sequences
from models.network import LanguageModel
from models.text.levels import Level
from models.text.tokenizer import Boundary, Tokenizer
from models.words.speller import VOCABULARY_SIZE, Speller
from tests.tiny import parts, tiny_model
from training import evaluate
from training.evaluate import evaluate_lines, evaluate_texts
from training.evaluation_figures import Totals

LINES = ["the cat sees fish", "", "a zebra!", "the dog likes a bone and my bird", "fish fish"]
TEXT = "\n".join(LINES) + "\n"


def build(level: Level, boundary: Boundary) -> tuple[LanguageModel, Tokenizer]:
    tokenizer = Tokenizer.train(["the cat sees fish\na dog likes a bone\nmy bird\n" * 3], level, boundary)
    return tiny_model(len(tokenizer)), tokenizer


@torch.inference_mode()
def one_pass(model: LanguageModel, ids: list[int]) -> float:
    """Log-probability of ids[1:] after ids[0], the obvious way."""
    logits, _ = model(torch.tensor([ids[:-1]]), model.config.state_layout.zeros(1))
    logprobs = logits.double().log_softmax(-1)[0]
    total: float = logprobs.gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
    return total


@pytest.mark.parametrize("level", ["char", "word"])
def test_reset_line_equals_the_sum_over_lines(level: Level) -> None:
    model, tokenizer = build(level, "line")
    figures = evaluate_texts(model, tokenizer, [TEXT], "line")
    ids = [torch.tensor([tokenizer.eos_id, *tokenizer.encode(line).ids, tokenizer.eos_id]) for line in LINES]
    alone = [score_sequences(model, [one[:-1]], [one[1:]])[0].sum().item() for one in ids]
    assert figures.logprob == pytest.approx(sum(alone), rel=1e-6)
    assert figures.logprob == pytest.approx(sum(one_pass(model, one.tolist()) for one in ids), rel=1e-6)
    assert figures.tokens == sum(len(one) - 1 for one in ids)
    assert figures.sentences == len(LINES)
    assert figures.words == len(TEXT.split())
    assert figures.characters == sum(map(len, LINES))
    assert figures.to_json()["perplexity_per_word"] == pytest.approx(
        math.exp(-sum(alone) / (len(TEXT.split()) + len(LINES)))
    )


@pytest.mark.parametrize(("level", "boundary"), [("char", "document"), ("word", "line"), ("char", "paragraph")])
def test_reset_never_equals_one_pass_over_each_file(level: Level, boundary: Boundary) -> None:
    model, tokenizer = build(level, boundary)
    texts = [TEXT * 9, "the cat", TEXT]  # longer than a window, shorter, in between
    figures = evaluate_texts(model, tokenizer, texts, "never")
    expected = [one_pass(model, [tokenizer.eos_id, *tokenizer.encode_document(text)]) for text in texts]
    assert figures.logprob == pytest.approx(sum(expected), rel=1e-6)
    assert figures.tokens == sum(len(tokenizer.encode_document(text)) for text in texts)
    assert figures.characters == sum(map(len, texts))


@pytest.mark.parametrize("reset", ["never", "line"])
def test_figures_do_not_depend_on_batching(reset: evaluate.Reset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build("char", "line")
    texts = [TEXT * 3, TEXT, "fish\n"]
    together = evaluate_texts(model, tokenizer, texts, reset)
    monkeypatch.setattr(evaluate, "BATCH_ROWS", 2)
    monkeypatch.setattr(evaluate, "BATCH_TOKENS", 40)
    monkeypatch.setattr(evaluate, "WINDOW", 7)
    apart = evaluate_texts(model, tokenizer, texts, reset)
    found, expected = (
        {name: value for name, value in figures.to_json().items() if value is not None} for figures in (together, apart)
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_units_by_hand() -> None:
    figures = Totals(logprob=-8 * math.log(2), tokens=4, sentences=1, words=3, characters=16, oov=1, oov_logprob=-2.0)
    assert figures.to_json()["perplexity"] == pytest.approx(4.0)  # 2 bits a token
    assert figures.to_json()["perplexity_per_word"] == pytest.approx(4.0)  # 3 words and an <eos>
    assert figures.to_json()["bits_per_character"] == pytest.approx(0.5)
    assert figures.to_json()["nats_per_character"] == pytest.approx(math.log(2) / 2)
    assert figures.to_json()["logprob_without_oov"] == pytest.approx(2 - 8 * math.log(2))
    assert figures.to_json()["oov_rate"] == 0.25


def test_uniform_model_has_perplexity_of_its_vocabulary() -> None:
    model, tokenizer = build("char", "line")
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
    assert evaluate_texts(model, tokenizer, [TEXT], "never").to_json()["perplexity"] == pytest.approx(
        len(tokenizer), rel=1e-6
    )


def test_unknown_words_are_counted_and_left_out() -> None:
    model, tokenizer = build("word", "line")
    figures = evaluate_lines(model, tokenizer, ["the zebra", "the zebra zebra"])
    assert figures.oov == 3
    assert figures.logprob < figures.to_json()["logprob_without_oov"] < 0


def test_nothing_gives_null_not_nan() -> None:
    assert {Totals().to_json()[name] for name in ("perplexity", "bits_per_character", "oov_rate")} == {None}


def test_unknown_words_beyond_those_remembered_leave_the_closed_total(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build("word", "line")
    speller = Speller(*parts(tiny_model(VOCABULARY_SIZE, hidden_sizes=(8,))))
    text = "gnu yak emu gnu yak"
    whole = evaluate_texts(model, tokenizer, [text], "never", speller=speller)
    assert whole.to_json()["bits_per_character"] > whole.to_json()["bits_per_character_closed"]
    monkeypatch.setattr("training.data.tokens.MOST_UNKNOWN", 0)
    cut = evaluate_texts(model, tokenizer, [text], "never", speller=speller)
    assert cut.to_json()["bits_per_character"] == cut.to_json()["bits_per_character_closed"]
    assert cut.oov == whole.oov > 0
