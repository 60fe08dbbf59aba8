"""The proof of invariance: that it compares, that it finds what differs, and that tiny networks pass it."""

import asyncio
import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from benchmarks.invariance.__main__ import markdown
from benchmarks.invariance.answers import TEXT, AskError, Body, Finding, differences, first_difference, merged, told
from benchmarks.invariance.axes import with_fields
from benchmarks.invariance.subject import Subject
from benchmarks.shapes import TINY_SHAPES, write_checkpoint

ROOT = Path(__file__).parents[2]

CHOICE: Body = {
    "index": 0,
    "text": "ab",
    "finish_reason": "length",
    "state": "AAAB",
    "tokens": [{"id": 1, "text": "a", "logprob": -1.5, "top": []}, {"id": 2, "text": "b", "logprob": -0.1, "top": []}],
}


def test_the_last_bit_of_a_logprob_is_a_difference() -> None:
    other = copy.deepcopy(CHOICE)
    other["tokens"][1]["logprob"] = -0.10000000000000002
    assert first_difference(CHOICE, copy.deepcopy(CHOICE)) is None
    assert first_difference(CHOICE, other) == "tokens[1].logprob is -0.10000000000000002, not -0.1"
    assert differences([CHOICE, CHOICE], [CHOICE, other]) == (
        "1 of 2 answers differ; of answer 1, tokens[1].logprob is -0.10000000000000002, not -0.1"
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"text": "ac"}, "text from character 1 on is 'c', not 'b'"),
        ({"text": "abc"}, "text from character 2 on is 'c', not ''"),
        ({"state": "AAAC"}, "state from character 3 on is 'C', not 'B'"),
        ({"tokens": CHOICE["tokens"][:1]}, "the length of tokens is 1, not 2"),
        ({"tokens": None}, "tokens is None, not [{'id': 1"),
        ({"more": 1}, "the answer has index, text"),
    ],
    ids=["text", "more text", "state", "fewer tokens", "no tokens", "another field"],
)
def test_a_difference_is_described(change: Body, difference: str) -> None:
    assert (first_difference(CHOICE, CHOICE | change) or "").startswith(difference)


def test_a_missing_answer_is_a_difference() -> None:
    assert differences([CHOICE, CHOICE], [CHOICE]) == "1 answers, not 2"


def test_a_difference_is_in_the_report() -> None:
    report = markdown([Finding("alone", "tiny", "cpu-int8", "2 answers", "text is 'a', not 'b'")])
    assert "| alone | tiny | cpu-int8 | 2 answers | no |" in report
    assert "- alone, tiny, cpu-int8: text is 'a', not 'b'" in report
    assert "No difference" not in report


def test_a_run_that_broke_off_proves_nothing() -> None:
    report = markdown([Finding("alone", "tiny", "cpu-int8", "2 answers", None)], whole=False)
    assert "No difference" not in report
    assert "broke off" in report


def test_a_stream_is_put_together() -> None:
    """Choices interleaved; the second token of the first choice comes with the text that was held back."""
    tokens = CHOICE["tokens"]
    events = [
        {"index": 1, "text": "c", "finish_reason": "length", "state": "BBBB", "tokens": tokens[:1]},
        {"index": 0, "text": "", "finish_reason": None, "tokens": tokens[:1]},
        {"index": 0, "text": "ab", "finish_reason": "length", "state": "AAAB", "tokens": tokens[1:]},
        {"usage": {"completion_tokens": 3}},
    ]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    answer = merged(stream + b"data: [DONE]\n\n")
    assert answer["usage"] == {"completion_tokens": 3}
    assert told([answer])[0] == told([{"choices": [CHOICE]}])[0]
    with pytest.raises(AskError, match="broke off"):
        merged(stream)
    with pytest.raises(AskError, match="late"):
        merged(b'data: {"error": "late"}\n\ndata: [DONE]\n\n')


def test_answers_to_other_seeds_are_found_to_differ(tmp_path: Path) -> None:
    shape = TINY_SHAPES[1]
    write_checkpoint(shape, tmp_path / "checkpoints")
    subject = Subject(shape.name, "float32", tmp_path / "checkpoints" / shape.name, 16, 4, Progress(disable=True))

    async def findings() -> list[Finding]:
        subject.alone = await subject.ask("alone", server, subject.bodies)
        same = await subject.ask("again", server, subject.bodies, at_once=16)
        other = await subject.ask("other seed", server, with_fields(subject.bodies, seed=99), at_once=16)
        return [subject.as_alone("axis", answers, TEXT) for answers in (same, other)]

    with subject.server() as server:
        same, other = asyncio.run(findings())
    assert same.difference is None
    assert other.difference is not None


@pytest.mark.timeout(120)
def test_a_tiny_network_is_invariant() -> None:
    command = [sys.executable, "-m", "benchmarks.invariance", "--shape", "tiny-word", "--dtype", "float32"]
    command += ["--seeds", "16", "--tokens", "16"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=110)
        finally:
            process.terminate()  # one that takes too long may still stop its servers
    assert process.returncode == 0, output + errors
    assert output.count("| yes |") == output.count("cpu-float32") > 20
    assert "No difference." in output


def test_an_unknown_shape_is_named() -> None:
    command = [sys.executable, "-m", "benchmarks.invariance", "--shape", "chars"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 2
    assert "chars" in done.stderr
