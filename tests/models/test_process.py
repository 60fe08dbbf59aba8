"""What a process keeps of the memory that it no longer uses."""

import subprocess
import sys

import pytest

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
