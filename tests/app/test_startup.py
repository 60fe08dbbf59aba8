"""Starting with checkpoints that are whole, damaged or missing; and the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.conftest import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoints(checkpoints_dir: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(checkpoints_dir, tmp_path / "checkpoints"))


def truncate(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def rename(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").rename(checkpoint / "tokeniser.json")


def edit(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["network"]["hidden_sizes"][0] += 1
    (checkpoint / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "file"),
    [(truncate, "model.safetensors"), (rename, "tokenizer.json"), (edit, "model.safetensors")],
    ids=["truncated", "renamed", "edited"],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_others_are_served(
    checkpoints: Path, damage: object, file: str
) -> None:
    assert callable(damage)
    damage(checkpoints / "char")
    with serving(checkpoints=checkpoints, default_model="word", threads=1) as client:
        assert client.get("/ready").status_code == 200
        assert client.post("/score", json={"text": "The cat"}).status_code == 200
        assert client.post("/score", json={"text": "The cat", "model": "char"}).status_code == 404
        (refused,) = client.get("/info").json()["refused"]
        assert refused["name"] == "char"
        assert refused["file"].endswith(file)
        assert refused["reason"]


def run(*arguments: str, checkpoints: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAROUSEL_")}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"CAROUSEL_CHECKPOINTS": str(checkpoints), "CAROUSEL_THREADS": "1"},
        timeout=120,
        check=False,
    )


def test_the_server_does_not_start_without_its_default_model(checkpoints: Path, tmp_path: Path) -> None:
    truncate(checkpoints / "char")
    refused = run("serve", "--port", "0", "--model", "char", checkpoints=checkpoints)
    assert refused.returncode != 0
    assert "model.safetensors" in refused.stderr
    assert "SHA-256" in refused.stderr
    empty = run("serve", "--port", "0", checkpoints=tmp_path / "nothing")
    assert empty.returncode != 0
    assert "training train" in empty.stderr
    assert "Traceback" not in refused.stderr + empty.stderr


def test_a_wrong_setting_is_named(checkpoints: Path) -> None:
    refused = run("serve", "--port", "99999", checkpoints=checkpoints)
    assert refused.returncode == 2
    assert "CAROUSEL_PORT" in refused.stderr


def test_generate_prints_prompt_and_completion(checkpoints: Path) -> None:
    arguments = ("generate", "The cat", "--max-tokens", "8", "--seed", "3", "--ignore-eos", "--model", "word")
    first, second = (run(*arguments, checkpoints=checkpoints) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("The cat")
    assert first.stdout == second.stdout


def test_score_reads_lines_and_jsonl_and_keeps_their_order_and_fields(checkpoints: Path) -> None:
    lines = "\n".join(["The cat sat", "", '{"text": "The cats", "id": 7}', *["The pear"] * 100]) + "\n"
    done = run("score", "--model", "word", checkpoints=checkpoints, text=lines)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["text"] for record in records[:3]] == ["The cat sat", "", "The cats"]
    assert records[2]["id"] == 7
    assert len(records) == 103
    assert len({record["logprob"] for record in records[3:]}) == 1


def test_score_says_which_line_is_wrong(checkpoints: Path) -> None:
    wrong = run("score", "--model", "word", checkpoints=checkpoints, text='The cat\n{"txt": "The cats"}\n')
    assert wrong.returncode == 2
    assert "line 2" in wrong.stderr
    assert "--field" in wrong.stderr


def test_next_prints_words(checkpoints: Path) -> None:
    done = run("next", "The c", "--json", "--model", "word", checkpoints=checkpoints)
    assert json.loads(done.stdout)["completing"] == "c"


def test_a_wrong_value_on_the_command_line_is_a_message_and_not_a_traceback(checkpoints: Path) -> None:
    for arguments in (
        ("generate", "--temperature", "-1"),
        ("generate", "--model", "nobody"),
        ("next", "x", "--top", "0"),
    ):
        done = run(*arguments, checkpoints=checkpoints)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
