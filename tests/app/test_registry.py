"""Starting with checkpoints that are whole, damaged or missing."""

import json
from pathlib import Path

import pytest

from tests.app.commands.running import run
from tests.app.conftest import serving


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
