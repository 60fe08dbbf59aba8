"""The command `rescore`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.app.tasks.test_rescore import LISTS, rescored

ROOT = Path(__file__).parents[3]


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
