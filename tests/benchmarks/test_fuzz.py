"""Some hundred altered checkpoints and states; and what goes wrong is seen."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BROKEN = """
import ctypes, time
import benchmarks.fuzz.__main__ as fuzz

def run_case(seed, number, subjects):
    if number == 2:
        raise KeyError("word")
    if number == 3:
        ctypes.string_at(0)
    if number == 4:
        time.sleep(100)
    return "config", "served"

fuzz.HANG_SECONDS, fuzz.run_case = 0.2, run_case
fuzz.main(cases=6)
"""


def run(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork; needs what /proc has")
def test_altered_checkpoints_and_states_are_refused_or_served_soundly() -> None:
    status, output = run("-m", "benchmarks.fuzz", "--cases", "400", "--seed", "1")
    assert status == 0, output
    assert "400" in output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork; needs what /proc has")
def test_what_goes_wrong_is_seen_and_the_other_cases_go_on() -> None:
    status, output = run("-c", BROKEN)
    assert status != 0
    found = [line for line in output.splitlines() if line.startswith("case ")]
    assert [line.split(":")[0].split()[1] for line in found] == ["2", "3", "4"], output
    assert ["KeyError" in found[0], "crashed" in found[1], "hung" in found[2]] == [True] * 3
