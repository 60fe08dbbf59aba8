"""The kernels' portable code compiles for another processor and computes the same bits there."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("portable.cpp")
# As in pyproject.toml, where a comment says why no contraction.
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-static"]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def built(compiler: str, folder: Path) -> Path:
    program = folder / compiler
    subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], check=True, timeout=200)
    return program


def lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason="needs g++-aarch64-linux-gnu and qemu-user",
)
def test_an_arm_processor_gives_the_same_bits(tmp_path: Path) -> None:
    here, there = lines(str(built("g++", tmp_path))), lines(EMULATOR, str(built(COMPILER, tmp_path)))
    assert len(here) == 24
    assert [line.split()[0] for line in here] == [line.split()[0] for line in there]
    unequal = [number for number, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1]]
    assert not unequal, [here[unequal[0]][:300], there[unequal[0]][:300]]
