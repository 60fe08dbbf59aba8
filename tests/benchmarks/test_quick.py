"""The whole benchmark on a tiny network: real servers, real sockets. Whether it works, not how fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a benchmark. One that takes too long may still stop its servers."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=55)
        finally:
            process.terminate()
    return process.returncode, output, errors


@pytest.mark.timeout(60)
def test_a_quick_run_measures_both_servers_and_the_engine(tmp_path: Path) -> None:
    parts = "decode,prefill,score,next,engine"
    status, output, errors = run(
        "--quick", "--shape", "tiny-word", "--only", parts, "--window", "0.1", "--out", str(tmp_path)
    )
    assert status == 0, errors
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    (report,) = (path.read_text() for path in tmp_path.glob("*.md"))
    assert report.strip() == output.strip()
    assert result["cpu"] in report
    records = result["records"]
    assert {record["server"] for record in records if record["part"] == "decode"} == {"ours", "naive"}
    for record in records:
        assert not record.get("error"), record
        assert record["tokens_per_second"] > 0 or record["workload"] == "next"
    streamed = [record for record in records if record.get("workload") == "decode-stream"]
    assert all(record["first_token_ms"]["p50"] > 0 for record in streamed)
    engine = [record for record in records if record["part"] == "engine"]
    assert all(record["floor_ms"] > 0 for record in engine if "requests_of" not in record)
    assert {record["requests_of"] for record in engine if "requests_of" in record} == {1, 8}


def test_a_wrong_part_is_named() -> None:
    status, _, errors = run("--only", "decoed")
    assert status == 2
    assert "decoed" in errors
