"""Starting with checkpoints that are whole, damaged or missing."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from models.backends.native import available
from models.checkpoint.format import save_checkpoint
from models.files import replacing_directory
from tests.app.commands.running import run
from tests.app.conftest import serving
from tests.tiny import tiny_model, tiny_tokenizer


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


def test_no_bad_checkpoint_stops_the_others(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [b"pipe", b"name\nERROR forged", b"\xff", b"layers", b"surrogate", b"pickled", b"loop"]
    paths = [checkpoints / os.fsdecode(name) for name in bad]
    for path in paths[:-1]:
        shutil.copytree(checkpoints / "char", path)
    (paths[0] / "model.safetensors").unlink()
    os.mkfifo(paths[0] / "model.safetensors")
    config = json.loads((paths[3] / "config.json").read_text())
    config["network"]["hidden_sizes"] = [8] * 100_000
    (paths[3] / "config.json").write_text(json.dumps(config))
    config["network"]["hidden_sizes"] = [8, 8]
    (paths[4] / "config.json").write_text(json.dumps(config | {"about": {"a": "\ud800"}}))
    (paths[5] / "tokenizer.json").write_bytes(b"\x80\x04.")
    paths[6].symlink_to(paths[6])
    with caplog.at_level(logging.INFO), serving(checkpoints=checkpoints, default_model="word", threads=1) as client:
        info = client.get("/info").json()
        assert client.post("/score", json={"text": "The cat"}).status_code == 200
    assert sorted(model["name"] for model in info["models"]) == ["char", "word"]
    refused = {refused["name"]: refused["reason"] for refused in info["refused"]}
    assert sorted(refused) == sorted(
        ["pipe", "name\\nERROR forged", "\\udcff", "layers", "surrogate", "pickled", "loop"]
    )
    assert all(refused.values())
    messages = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(messages) == len(bad)
    assert all(message.isprintable() for message in messages)


@pytest.mark.skipif(not available(), reason="the native kernels were not built")
def test_a_checkpoint_that_cannot_be_run_here_does_not_stop_the_others(checkpoints: Path) -> None:
    save_checkpoint(checkpoints / "gru", tiny_model(12, "gru"), tiny_tokenizer("word"))
    with serving(checkpoints=checkpoints, default_model="word", threads=1, dtype="int8") as client:
        info = client.get("/info").json()
        assert client.post("/score", json={"text": "The cat"}).status_code == 200
    assert [model["name"] for model in info["models"]] == ["char", "word"]
    assert [refused["name"] for refused in info["refused"]] == ["gru"]
    assert "int8 on a CPU needs the native kernels: they know lstm, not gru" in info["refused"][0]["reason"]


def test_what_a_checkpoint_says_of_itself_is_told_on_as_json(checkpoints: Path) -> None:
    config = json.loads((checkpoints / "char" / "config.json").read_text())
    config["about"] = {"a": float("nan"), "b": "\n\u2028\x00", "c": 10**300, "d": [[[[{"e": []}]]]]}
    (checkpoints / "char" / "config.json").write_text(json.dumps(config))
    (checkpoints / "char" / "README.md").write_bytes(b"\xff\x00\n\x1b[2J")
    with serving(checkpoints=checkpoints, default_model="word", threads=1) as client:
        (char, _) = client.get("/info").json()["models"]
    assert char["about"] == config["about"] | {"a": None}
    assert char["card"] == "\ufffd\x00\n\x1b[2J"


def test_the_next_start_brings_back_what_a_killed_export_left(checkpoints: Path) -> None:
    with replacing_directory(checkpoints / "other") as folder:
        (folder / "file").touch()
    (checkpoints / "char").rename(checkpoints / ".char.carousel-old-abc")
    (checkpoints / "other").rename(checkpoints / ".other.carousel-new-abc")
    with serving(checkpoints=checkpoints, default_model="char", threads=1) as client:
        assert client.get("/ready").status_code == 200
    assert sorted(path.name for path in checkpoints.iterdir()) == ["char", "word"]
