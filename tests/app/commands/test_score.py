"""The command `score` on files of any size: order, resumption, buckets."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


WORDS = ["The", "cat", "cats", "sat", "ate", "fish", "pear"]


def texts(count: int) -> list[str]:
    """Different from each other."""
    return [" ".join(WORDS[number // 7**place % 7] for place in range(6)) for number in range(count)]


def start(checkpoints: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "app", "score", *arguments, "--model", "word"],
        cwd=ROOT,
        env=os.environ | {"CAROUSEL_CHECKPOINTS": str(checkpoints), "CAROUSEL_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return errors


def test_a_killed_command_goes_on_where_it_was_no_line_lost_or_doubled(checkpoints_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts(20_000))))
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    finish(start(checkpoints_dir, str(source), "-o", str(whole)))

    partial = tmp_path / ".parts.jsonl.partial"
    kills = 0
    for _ in range(2):
        process = start(checkpoints_dir, str(source), "-o", str(parts))
        begun = partial.stat().st_size if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or partial.stat().st_size < begun + 200_000):
            pass
        process.send_signal(signal.SIGKILL)
        kills += process.wait(60) == -signal.SIGKILL
        process.communicate()
        assert not parts.exists()
        with partial.open("ab") as file:
            file.write(b'{"id": 123, "text": "half a li')
    assert kills == 2
    finish(start(checkpoints_dir, str(source), "-o", str(parts)))
    assert parts.read_text() == whole.read_text()
    assert [json.loads(line)["id"] for line in parts.read_text().splitlines()] == list(range(20_000))
    assert not partial.exists()


def test_buckets_are_thirds_by_perplexity(checkpoints_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "scores.jsonl"
    source.write_text("\n".join(texts(900)) + "\n")
    assert "head: perplexity below" in finish(start(checkpoints_dir, str(source), "-o", str(output)))
    records = [json.loads(line) for line in output.read_text().splitlines()]
    by_bucket = {
        bucket: [r["perplexity"] for r in records if r["bucket"] == bucket] for bucket in ("head", "middle", "tail")
    }
    assert [len(found) for found in by_bucket.values()] == pytest.approx([300, 300, 300], abs=9)
    assert max(by_bucket["head"]) < min(by_bucket["middle"])
    assert max(by_bucket["middle"]) < min(by_bucket["tail"])
    assert all(record["oov_rate"] == record["oov"] / record["tokens"] for record in records)


def test_thresholds_make_buckets_of_a_stream(checkpoints_dir: Path) -> None:
    process = start(checkpoints_dir, "--text", "The cat", "--text", "fish ate", "--thresholds", "0.5,1e9")
    assert [json.loads(line)["bucket"] for line in process.communicate(timeout=100)[0].splitlines()] == ["middle"] * 2


def test_texts_that_changed_are_refused_and_new_ones_are_added(checkpoints_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "scores.jsonl"
    source.write_bytes(b"The cat\nThe pear\n\xff\n")
    process = start(checkpoints_dir, str(source), "-o", str(output))
    assert "line 3: not UTF-8" in process.communicate(timeout=100)[1]
    assert not output.exists()
    source.write_text("The cat\nThe fish\n")
    process = start(checkpoints_dir, str(source), "-o", str(output))
    assert "text 2 is not the text that was scored" in process.communicate(timeout=100)[1]
    source.write_text("The cat\nThe pear\nThe fish\n")
    finish(start(checkpoints_dir, str(source), "-o", str(output)))
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == ["The cat", "The pear", "The fish"]


def test_an_output_that_is_no_file_is_refused_beforehand(checkpoints_dir: Path, tmp_path: Path) -> None:
    for output in ("/dev/null", str(tmp_path), str(tmp_path / "nowhere" / "out")):
        process = start(checkpoints_dir, "--text", "The cat", "-o", output)
        process.communicate(timeout=100)
        assert process.returncode == 2
    assert Path("/dev/null").is_char_device()
