"""What a process keeps of the memory that it no longer uses, and how many cores it may use."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import process

HOLES = """
from models.process import prepare_process, release_memory
prepare_process()
from pathlib import Path
import torch

def resident():  # in MiB
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

blocks = [torch.zeros(1 << 20) for _ in range(100)]  # of 4 MiB
full = resident()
del blocks[::2]
kept = resident()
release_memory()
print(full - kept, full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_that_is_free_is_kept_until_it_is_to_be_released() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True)
    at_once, in_the_end = map(float, done.stdout.split())
    assert at_once < 20
    assert in_the_end > 180


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
    ids=["version-2", "version-2-unlimited", "version-1", "version-1-unlimited", "no-control-group"],
)
def test_a_quota_of_the_control_group_limits_the_cores(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert process._quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "4096\n"}, 4096),
        ({"a": "8192\n", "a/b": "max\n"}, 8192),
        ({"a": "2048\n", "a/b": "4096\n"}, 2048),
        ({"": "1024\n"}, 1024),
    ],
    ids=["own", "of a group above", "the least", "of the group of a container"],
)
def test_the_memory_of_a_control_group_is_the_limit(limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("3:memory:/elsewhere\n0::/a/b\n")
    for group, limit in limits.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "memory.max").write_text(limit)
    assert process.memory_limit(tmp_path, tmp_path / "own") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_without_a_control_group_the_memory_of_the_machine_is_the_limit(tmp_path: Path) -> None:
    """Within what the system keeps for itself, which the two figures count differently."""
    kib = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1])
    assert process.memory_limit(tmp_path, tmp_path / "none") == pytest.approx(kib * 1024, rel=0.05)


def test_a_process_has_a_core_and_no_more_than_it_may_run_on() -> None:
    assert 1 <= process.cores() <= len(os.sched_getaffinity(0))
