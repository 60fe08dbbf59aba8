"""N-best lists: the route, the command, and how weights are chosen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.files.rescoring import cross_validate, nbest_lists, tune, word_errors

ROOT = Path(__file__).parents[2]

LISTS = [
    {
        "utt": "a",
        "ref": "The cat sat",
        "hyps": [{"text": "The fish sat", "score": -1.0}, {"text": "The cat sat", "score": -1.5}],
    },
    {"utt": "b", "ref": "The pear", "hyps": [{"text": "The pear", "score": -2.0}, {"text": "pear", "score": -2.0}]},
]


def rescored(client: httpx.Client, **body: Any) -> Any:
    response = client.post("/rescore", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_totals_are_weighted_sums_best_first(client: httpx.Client) -> None:
    hypotheses = LISTS[0]["hyps"]
    texts = [one["text"] for one in hypotheses]  # type: ignore[index]
    scores = client.post("/score", json={"text": texts}).json()["scores"]
    answer = rescored(client, hypotheses=hypotheses, weight=0.3, length_weight=0.7)
    totals = [-1.0 + 0.3 * scores[0]["logprob"] + 0.7 * 3, -1.5 + 0.3 * scores[1]["logprob"] + 0.7 * 3]
    assert [one["total"] for one in answer["hypotheses"]] == sorted(totals, reverse=True)
    assert answer["best"] == answer["hypotheses"][0]["index"] == totals.index(max(totals))
    assert {one["index"]: one["logprob"] for one in answer["hypotheses"]} == dict(
        enumerate(s["logprob"] for s in scores)
    )


def test_equals_keep_the_order_of_the_request(client: httpx.Client) -> None:
    hypotheses = [{"text": text, "score": 0.0} for text in ("pear", "The", "cat")]
    assert [one["index"] for one in rescored(client, hypotheses=hypotheses, weight=0)["hypotheses"]] == [0, 1, 2]


def test_the_model_reads_lower_case_and_the_answer_has_the_text_as_it_was(client: httpx.Client) -> None:
    upper = rescored(client, hypotheses=[{"text": "CAT SAT", "score": 0}], lowercase=True)["hypotheses"][0]
    assert upper["text"] == "CAT SAT"
    assert (
        upper["logprob"] == rescored(client, hypotheses=[{"text": "cat sat", "score": 0}])["hypotheses"][0]["logprob"]
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"hypotheses": []}, "hypotheses"),
        ({"hypotheses": [{"text": "a"}]}, "hypotheses.0.score"),
        ({"hypotheses": [{"text": "a", "score": 1, "am": 2}]}, "hypotheses.0.am"),
        ({"hypotheses": [{"text": "a", "score": 0}] * 1025}, "hypotheses"),
        ({"hypotheses": [{"text": "a", "score": 0}], "weight": "much"}, "weight"),
    ],
)
def test_wrong_values_are_named(client: httpx.Client, body: dict[str, Any], param: str) -> None:
    response = client.post("/rescore", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


def run(checkpoints: Path, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app", "rescore", *arguments, "--model", "word"],
        cwd=ROOT,
        env=os.environ | {"CAROUSEL_CHECKPOINTS": str(checkpoints), "CAROUSEL_THREADS": "1", "COLUMNS": "150"},
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_command_reorders_tunes_and_reports(client: httpx.Client, checkpoints_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "lists.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in LISTS))
    done = run(checkpoints_dir, str(source), "-o", str(output), "--weight", "0.3", "--length-weight", "0.7")
    assert done.returncode == 0, done.stderr
    for one, line in zip(LISTS, output.read_text().splitlines(), strict=True):
        found = json.loads(line)
        expected = rescored(client, hypotheses=one["hyps"], weight=0.3, length_weight=0.7)["hypotheses"]
        assert found == one | {"hyps": expected}
    assert "20.00%" in done.stderr  # one of five words
    assert "0.00%" in done.stderr

    tuned = run(checkpoints_dir, str(source), "--tune", str(source))
    assert tuned.returncode == 0, tuned.stderr
    assert "development set" in tuned.stderr
    folded = run(checkpoints_dir, str(source), "--folds", "2")
    assert folded.returncode == 0, folded.stderr


def test_two_models_count_by_the_mean_of_their_logprobs(client: httpx.Client, checkpoints_dir: Path) -> None:
    done = run(checkpoints_dir, "--model", "word", "--also", "char", text=json.dumps(LISTS[0]) + "\n")
    assert done.returncode == 0, done.stderr
    texts = [one["text"] for one in LISTS[0]["hyps"]]  # type: ignore[index]
    scores = [
        client.post("/score", json={"text": texts, "model": model}).json()["scores"] for model in ("word", "char")
    ]
    means = {text: (a["logprob"] + b["logprob"]) / 2 for text, a, b in zip(texts, *scores, strict=True)}
    assert {one["text"]: one["logprob"] for one in json.loads(done.stdout)["hyps"]} == pytest.approx(means)
    assert run(checkpoints_dir, "--also", "nothing", text="").returncode != 0


def test_hypotheses_keep_their_other_fields(checkpoints_dir: Path) -> None:
    record = {"hyps": [{"text": "The cat", "score": -3, "confidence": 0.5}, {"text": "The pear", "score": -1, "id": 7}]}
    done = run(checkpoints_dir, "--weight", "0", text=json.dumps(record) + "\n")
    first, second = json.loads(done.stdout)["hyps"]
    assert (first["text"], first["id"], first["index"]) == ("The pear", 7, 1)
    assert (second["text"], second["confidence"]) == ("The cat", 0.5)


def test_command_takes_lines(checkpoints_dir: Path) -> None:
    done = run(checkpoints_dir, "--weight", "0", text="The cat\t-3\nThe pear\t-1\n\n\nfish\t-2\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The pear\t-1\nThe cat\t-3\n\nfish\t-2\n\n"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("The cat -3", "line 2: not a text, a tab and a score"),
        ("The cat\tinf", "line 2: not a text, a tab and a score"),
        ("The cat\tmuch", "line 2: not a text, a tab and a score"),
        ("The cat\t1e300", "line 2: not a text, a tab and a score"),
    ],
)
def test_command_names_the_line_that_is_wrong(checkpoints_dir: Path, line: str, part: str) -> None:
    done = run(checkpoints_dir, text=f"The cat\t-3\n{line}\n")
    assert done.returncode == 2
    assert part in done.stderr


class TestWeights:
    def test_word_errors(self) -> None:
        assert word_errors("a b c", "a x c d") == 2
        assert word_errors("", "a b") == 2
        assert word_errors("a", "") == 1

    def test_tuning_finds_the_weight_that_made_the_lists(self) -> None:
        generator = np.random.default_rng(1)
        scores, logprobs = generator.normal(size=(2, 400, 8))
        words = generator.integers(3, 12, size=(400, 8))
        best = (scores + 0.6 * logprobs + 0.5 * words).argmax(axis=1)
        errors = np.ones((400, 8), np.int64)
        errors[np.arange(400), best] = 0
        lists = nbest_lists(scores.tolist(), logprobs.tolist(), words.tolist(), errors.tolist(), [10] * 400)
        weight, length_weight = tune(lists)
        assert weight == pytest.approx(0.6, abs=0.15)
        assert length_weight == pytest.approx(0.5, abs=0.15)
        assert lists.errors_at(weight, length_weight) < 40 < lists.first_errors
        assert lists.oracle_errors == 0
        assert cross_validate(lists, 2)[0] < 60

    def test_lists_of_different_lengths(self) -> None:
        lists = nbest_lists([[-1.0], [-2.0, -3.0]], [[0.0], [-9.0, -1.0]], [[1], [1, 1]], [[2], [1, 0]], [3, 3])
        assert lists.chosen(0.0, 6.0).tolist() == [0, 0]
        assert lists.errors_at(1.0, 0.0) == 2
        assert lists.oracle_errors == 2
        assert lists.rate(lists.first_errors) == 0.5

    def test_a_model_that_says_nothing_is_given_no_weight(self) -> None:
        lists = nbest_lists([[-1.0, -2.0]] * 9, [[-5.0, -5.0]] * 9, [[2, 2]] * 9, [[0, 1]] * 9, [2] * 9)
        assert tune(lists) == (0.0, 0.0)
