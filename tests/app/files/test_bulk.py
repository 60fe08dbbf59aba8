"""Scoring files of any size: order, resumption, buckets."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.files.bulk import InputError, Item, Quantiles, ResumableFile, in_order, read_batches

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


def test_a_partial_of_something_else_is_refused_until_told_to_begin_anew(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {"texts": 1}) as file:
        file.write(["a", "b"])
    with pytest.raises(InputError, match="--restart"):
        ResumableFile(tmp_path / "out", {"texts": 2})
    with ResumableFile(tmp_path / "out", {"texts": 1}) as file:
        assert file.kept == 2
        file.write(["c"])
        assert list(file.lines()) == ["a", "b", "c"]
    with ResumableFile(tmp_path / "out", {"texts": 2}, restart=True) as file:
        file.write(["d"])
        file.finish(str.upper)
    assert (tmp_path / "out").read_text() == "D\n"


def test_two_commands_do_not_write_one_output(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {}), pytest.raises(InputError, match="another command is writing"):
        ResumableFile(tmp_path / "out", {})


def test_texts_that_changed_are_refused_and_new_ones_are_added(checkpoints_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "scores.jsonl"
    source.write_bytes(b"The cat\nThe pear\n\xff\n")
    process = start(checkpoints_dir, str(source), "-o", str(output))
    assert "line 3: not UTF-8" in process.communicate(timeout=100)[1]
    assert not output.exists()
    source.write_text("The cat\nThe fish\n")
    process = start(checkpoints_dir, str(source), "-o", str(output))
    assert "text 2 is not the one that was scored" in process.communicate(timeout=100)[1]
    source.write_text("The cat\nThe pear\nThe fish\n")
    finish(start(checkpoints_dir, str(source), "-o", str(output)))
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == ["The cat", "The pear", "The fish"]


def test_an_output_that_is_no_file_is_refused_beforehand(checkpoints_dir: Path, tmp_path: Path) -> None:
    for output in ("/dev/null", str(tmp_path), str(tmp_path / "nowhere" / "out")):
        process = start(checkpoints_dir, "--text", "The cat", "-o", output)
        process.communicate(timeout=100)
        assert process.returncode == 2
    assert Path("/dev/null").is_char_device()


def batches_of(content: bytes, field: str | None = "text") -> list[str]:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write(content)
    try:
        return [item.text for batch in read_batches(read, field) for item in batch]
    finally:
        os.close(read)


def test_empty_lines_are_texts_but_not_in_jsonl() -> None:
    assert batches_of(b"\n\na\n\nb") == ["", "", "a", "", "b"]
    assert batches_of(b'\n\n{"text": "a"}\n\n{"text": "b"}\n') == ["a", "b"]
    assert batches_of(b"\n\n") == ["", ""]
    assert batches_of(b"") == []
    with pytest.raises(InputError, match="too large for a number"):
        batches_of(b'{"text": "a", "x": 1e999}\n')


def test_a_reading_that_fails_ends_the_command() -> None:
    def batches() -> Iterator[list[Item]]:
        yield [Item("a", {})]
        raise OSError("the disk is gone")

    async def collect() -> None:
        async for _ in in_order(batches(), _nothing):
            pass

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(collect())


async def _nothing(_: list[Item]) -> None:
    pass


def test_results_keep_the_order_of_batches_and_an_error_comes_after_them() -> None:
    def batches() -> Iterator[list[Item]]:
        for number in range(20):
            yield [Item(str(number), {})]
        raise InputError("line 21")

    async def work(batch: list[Item]) -> str:
        for _ in range(20 - int(batch[0].text)):  # later ones are ready first
            await asyncio.sleep(0)
        return batch[0].text

    found = []

    async def collect() -> None:
        async for _, result in in_order(batches(), work):
            found.append(result)

    with pytest.raises(InputError, match="line 21"):
        asyncio.run(collect())
    assert found == [str(number) for number in range(20)]


def test_quantiles() -> None:
    quantiles = Quantiles()
    for number in range(1000):
        quantiles.add(number / 100)
    assert quantiles.below(0.5) == pytest.approx(5, abs=0.02)
    quantiles.add(1e9)
    assert quantiles.below(1.0) == Quantiles.HIGHEST
    assert Quantiles().below(0.5) == 0
