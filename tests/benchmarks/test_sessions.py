"""What a session costs, on a tiny network: whether it is measured, not how much."""

import sys
from pathlib import Path

import pytest

from benchmarks.servers import Server
from benchmarks.sessions import Memory, markdown, measure_memory, measure_state
from benchmarks.shapes import TINY_SHAPES, write_checkpoint


def test_a_state_has_one_length(tmp_path: Path) -> None:
    """LSTM layers of 16 and 16: 64 floats, with header and checksum 286 bytes, of which base64 makes 4 of 3."""
    assert measure_state(TINY_SHAPES[0], tmp_path) == ["tiny-char", "64", "382"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_sampled_while_sessions_come_and_go(tmp_path: Path) -> None:
    shape = TINY_SHAPES[1]
    checkpoint = tmp_path / "checkpoints" / shape.name
    write_checkpoint(shape, checkpoint.parent)
    server = Server("ours", checkpoint, tmp_path / "log", "float32", CAROUSEL_PREFIX_CACHE_BYTES="0")
    memory = measure_memory("test", server, checkpoint, sessions=40)
    assert list(memory.resident) == list(range(4, 41, 2))
    assert all(20 < resident <= memory.peak for resident in memory.resident.values())


def test_growth_is_from_the_first_sample_to_the_last() -> None:
    report = markdown({"one": Memory({10: 100.0, 20: 120.0, 30: 101.0}, peak=130.0)})
    assert "| growth, first to last | +1.0 (+1.00%) |" in report
    assert "| highest since the start | 130.0 |" in report
