"""A checkpoint with a speller: every string has a probability, and words that were never seen can be written."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.checkpoint.format import CONFIG, SPELLER, CheckpointError, add_speller, load_checkpoint
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from models.words.lexicon import Lexicon
from models.words.speller import VOCABULARY_SIZE, Speller
from tests.app.commands.running import run
from tests.app.conftest import serving
from tests.tiny import parts, tiny_model


@pytest.fixture(scope="module")
def folder(checkpoints_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`spelling`, the tiny word model with a speller, and `word`, the same without."""
    root = tmp_path_factory.mktemp("spelling")
    for name in ("word", "spelling"):
        shutil.copytree(checkpoints_dir / "word", root / name)
    lexicon = Lexicon({" zebra": 3, " zeal": 1})
    add_speller(root / "spelling", Speller(*parts(tiny_model(VOCABULARY_SIZE, hidden_sizes=(16,))), lexicon, 0.5))
    return root


@pytest.fixture(scope="module")
def speller(folder: Path) -> Speller:
    speller = load_checkpoint(folder / "spelling").speller
    assert speller is not None
    return speller


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with serving(checkpoints=folder, default_model="spelling", threads=1) as client:
        yield client


def score(client: httpx.Client, text: str | list[str], **fields: Any) -> dict[str, Any]:
    answer = client.post("/score", json={"text": text, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_unknown_words_are_charged_their_spelling(client: httpx.Client, speller: Speller) -> None:
    (found,) = score(client, "The zebra ate yaks", tokens=True)["scores"]
    spelled = speller.logprobs([" zebra", " yaks"])
    by_text = {detail["text"]: detail for detail in found["details"]}
    assert [by_text[" zebra"]["spelling_logprob"], by_text[" yaks"]["spelling_logprob"]] == spelled
    assert all("spelling_logprob" not in detail for detail in found["details"] if not detail["oov"])
    assert found["logprob_open"] == pytest.approx(found["logprob"] + sum(spelled), abs=1e-9)
    assert found["bits_per_character"] == pytest.approx(-found["logprob_open"] / math.log(2) / len(found["text"]))
    assert found["perplexity"] == pytest.approx(math.exp(-found["logprob"] / found["tokens"]))


def test_best_and_probabilities_are_of_the_open_totals(client: httpx.Client) -> None:
    body = score(client, ["The gnu ate", "The hippopotamus ate"])  # one <unk> each: closed totals tie
    short, long = body["scores"]
    assert short["logprob"] == long["logprob"]
    assert short["logprob_open"] > long["logprob_open"]
    assert body["best"] == 0
    odds = body["probabilities"][0] / body["probabilities"][1]
    assert math.log(odds) == pytest.approx(short["logprob_open"] - long["logprob_open"])


def test_known_words_and_the_symbol_itself_have_no_spelling(client: httpx.Client) -> None:
    for text in ("The cat ate", "The <unk> ate", ""):
        (found,) = score(client, text, tokens=True)["scores"]
        assert found["logprob_open"] == found["logprob"]
        assert all("spelling_logprob" not in detail for detail in found["details"])


def test_only_what_is_scored_is_charged(client: httpx.Client, speller: Speller) -> None:
    (found,) = score(client, " gnu", context="The zebra ate")["scores"]
    assert found["logprob_open"] == pytest.approx(found["logprob"] + speller.logprobs([" gnu"])[0])


def test_without_a_speller_there_is_no_open_total(client: httpx.Client) -> None:
    (found,) = score(client, "The zebra", model="word")["scores"]
    assert found["logprob_open"] is None


def generate(client: httpx.Client, unk_id: int, **fields: Any) -> dict[str, Any]:
    body = {"prompt": "The cat", "max_tokens": 8, "seed": 5, "allow_unk": "spell", "ignore_eos": True, **fields}
    answer = client.post("/generate", json=body | {"logit_bias": {str(unk_id): 4}})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_drawn_unk_is_written_as_a_new_word(
    client: httpx.Client, speller: Speller, tiny_word: tuple[LanguageModel, Tokenizer]
) -> None:
    unk_id = tiny_word[1].unk_id
    (choice,) = generate(client, unk_id, logprobs=0)["choices"]
    unknown = [(place, token) for place, token in enumerate(choice["tokens"]) if token["id"] == unk_id]
    assert unknown
    assert "<unk>" not in choice["text"]
    # <eos>, "The", " cat" come before the first drawn token.
    assert [token["text"] for _, token in unknown] == [speller.spell(5, 0, 3 + place) for place, _ in unknown]
    assert all(token["text"].strip() in choice["text"] for _, token in unknown)
    assert generate(client, unk_id)["choices"][0]["text"] == choice["text"]


def test_streamed_text_is_the_same(client: httpx.Client, tiny_word: tuple[LanguageModel, Tokenizer]) -> None:
    unk_id = tiny_word[1].unk_id
    body = {"prompt": "The cat", "max_tokens": 8, "seed": 5, "allow_unk": "spell", "ignore_eos": True, "stream": True}
    answer = client.post("/generate", json=body | {"logit_bias": {str(unk_id): 4}})
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    text = "".join(json.loads(event).get("text", "") for event in events)
    assert text == generate(client, unk_id)["choices"][0]["text"]


def test_spelling_needs_a_speller(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"allow_unk": "spell", "model": "word"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "allow_unk")
    assert client.post("/generate", json={"allow_unk": "always"}).status_code == 422


def test_a_word_never_seen_can_be_completed(client: httpx.Client) -> None:
    body = client.post("/next", json={"text": "The zeb", "top": 5}).json()
    assert body["words"]
    assert all(word["word"].startswith("zeb") for word in body["words"])
    assert 0 < body["coverage"] <= 1
    probabilities = [word["prob"] for word in body["words"]]
    assert probabilities == sorted(probabilities, reverse=True)
    without = client.post("/next", json={"text": "The zeb", "top": 5, "model": "word"}).json()
    assert without["words"] == []


def test_known_and_new_completions_share_the_probability(client: httpx.Client) -> None:
    found = client.post("/next", json={"text": "The ca", "top": 50}).json()
    alone = client.post("/next", json={"text": "The ca", "top": 50, "model": "word"}).json()
    known = {word["word"]: word["prob"] for word in alone["words"]}
    both = {word["word"]: word["prob"] for word in found["words"]}
    assert known.keys() <= both.keys()
    assert all(both[word] < probability for word, probability in known.items())
    assert sum(both.values()) <= 1 + 1e-9


def test_a_damaged_speller_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "spelling", tmp_path / "spelling"))
    (copy / SPELLER).write_bytes((copy / SPELLER).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{SPELLER}.*SHA-256"):
        load_checkpoint(copy)
    (copy / SPELLER).unlink()
    with pytest.raises(CheckpointError, match=f"{SPELLER}: is missing"):
        load_checkpoint(copy)


def test_adding_a_speller_leaves_the_model_as_it_was(folder: Path) -> None:
    before, after = load_checkpoint(folder / "word"), load_checkpoint(folder / "spelling")
    assert before.fingerprint == after.fingerprint
    assert before.about == after.about
    config = json.loads((folder / "spelling" / CONFIG).read_text())
    assert set(config["sha256"]) == {"model.safetensors", "tokenizer.json", SPELLER}


def test_a_word_that_is_too_long_to_be_spelled_is_refused_before_any_work(client: httpx.Client) -> None:
    for route, body in (
        ("/score", {"text": ["The cat", "The " + "y" * 5000]}),
        ("/rescore", {"hypotheses": [{"text": "y" * 5000, "score": 0}]}),
        ("/next", {"text": "The " + "y" * 5000}),
    ):
        answer = client.post(route, json=body)
        assert answer.status_code == 422, answer.text
        assert "4096" in answer.json()["error"]["message"]
    assert client.post("/score", json={"text": "The " + "y" * 4000}).status_code == 200


@pytest.mark.parametrize("text", ["a" * 220, "7" * 700, "é" * 400])
def test_a_very_improbable_word_has_a_log_probability(client: httpx.Client, text: str) -> None:
    found = client.post("/next", json={"text": text}).json()
    for word in found["words"]:
        assert word["prob"] == pytest.approx(math.exp(word["logprob"]))
    assert score(client, text)["scores"][0]["logprob_open"] < -200


def test_long_words_cost_the_same_spelled_in_pieces(speller: Speller, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [" " + "zebra" * n for n in (1, 7, 40, 400)]
    whole, completed = speller.logprobs(words), speller.completions(words[2], 3)
    monkeypatch.setattr("models.words.speller.STRETCH", 64)
    speller._known.clear()
    assert speller.logprobs(words) == pytest.approx(whole, rel=1e-12)
    mass, found = speller.completions(words[2], 3)
    assert mass == pytest.approx(completed[0], rel=1e-12)
    assert [word for word, _ in found] == [word for word, _ in completed[1]]
    assert [value for _, value in found] == pytest.approx([value for _, value in completed[1]], rel=1e-12)


def test_the_time_of_one_owner_tells_nothing_of_another(speller: Speller) -> None:
    """What is kept is kept by owner."""
    speller.logprobs([" quagga"], owner="ann")
    assert ("ann", " quagga") in speller._known
    assert ("ben", " quagga") not in speller._known


def test_in_a_file_a_text_that_cannot_be_scored_is_marked_and_the_others_are_scored(
    folder: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = ["The cat", "The " + "y" * 5000, "The zebra sat"]
    source.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    command = run("score", str(source), "-o", str(out), "--model", "spelling", checkpoints=folder)
    assert command.returncode == 0, command.stderr
    first, wrong, last = map(json.loads, out.read_text().splitlines())
    assert [first["id"], wrong["id"], last["id"]] == [0, 1, 2]
    assert "4096" in wrong["error"]
    assert wrong["bucket"] is None
    assert "logprob_open" in first
    assert "logprob_open" in last
