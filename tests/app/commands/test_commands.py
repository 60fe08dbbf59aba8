"""The command line: values, messages, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.commands.running import ROOT, run


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


def test_score_reads_lines_in_their_order(checkpoints: Path) -> None:
    lines = "\ufeffThe cat sat\r\n\n[/] {x\n" + "The pear\n" * 100
    done = run("score", "--model", "word", checkpoints=checkpoints, text=lines)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["text"] for record in records[:4]] == ["The cat sat", "", "[/] {x", "The pear"]
    assert len(records) == 103
    assert len({record["logprob"] for record in records[3:]}) == 1


def test_score_keeps_the_fields_of_jsonl_records(checkpoints: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": 7, "body": "The cat"}\n\n{"id": 8, "body": "The pear"}\n')
    done = run("score", str(source), "--field", "body", "-o", str(output), "--model", "word", checkpoints=checkpoints)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(record["id"], record["text"]) for record in records] == [(7, "The cat"), (8, "The pear")]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"txt": "The cats"}', "--field"),
        ('{"text": NaN}', "NaN"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
    ids=["field", "NaN", "nesting", "surrogate"],
)
def test_score_says_which_line_is_wrong_and_what_came_before_is_there(checkpoints: Path, line: str, part: str) -> None:
    # The first line fills a batch's worth of input, so that it is answered before the second is read.
    text = '{"text": "The cat"}\n' * 64 + line + "\n"
    wrong = run("score", "--model", "word", checkpoints=checkpoints, text=text)
    assert wrong.returncode == 2
    assert "line 65" in wrong.stderr
    assert part in wrong.stderr
    assert len(wrong.stdout.splitlines()) == 64


def test_scores_do_not_replace_the_texts(checkpoints: Path, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("The cat\n")
    refused = run("score", str(source), "-o", str(source), "--model", "word", checkpoints=checkpoints)
    assert refused.returncode == 2
    assert source.read_text() == "The cat\n"


def test_a_table_shows_texts_as_they_are(checkpoints: Path) -> None:
    done = run("score", "--table", "--text", "[/] [red]x[/red]", "--model", "word", checkpoints=checkpoints)
    assert done.returncode == 0, done.stderr
    assert "[/] [red]x[/red]" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(checkpoints: Path) -> None:
    command = f"{sys.executable} -m app score --model word | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command],
        input="The cat\n" * 20_000,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"CAROUSEL_CHECKPOINTS": str(checkpoints), "CAROUSEL_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert json.loads(done.stdout)["text"] == "The cat"
    assert done.stderr == ""


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


def test_json_lines_are_utf_8_and_prose_is_shown_as_far_as_it_can_be_on_any_terminal() -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}

    def run_bytes(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "app", *arguments, "--model", "english-word"]
        return subprocess.run(command, capture_output=True, cwd=ROOT, env=ascii_only, check=True, timeout=120).stdout

    (line,) = run_bytes("score", "--text", "café “naïve”").splitlines()
    assert json.loads(line.decode())["text"] == "café “naïve”"
    assert "café".encode() in line
    assert run_bytes("generate", "She went to the café", "--max-tokens", "3", "--temperature", "0").isascii()
    assert run_bytes("score", "--table", "--text", "café").isascii()
