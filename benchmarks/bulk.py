"""Scoring files: lines a second, memory at two sizes, and what a kill costs.

    python -m benchmarks.bulk --data DATA [--lines 100000]

DATA holds novels/*.txt. Their sentences are the lines. Each command runs in a process by itself.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.host import cpu_slug, describe_host

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def main(
    data: Annotated[Path, typer.Option(help="Folder of novels/.", exists=True, file_okay=False)],
    lines: Annotated[int, typer.Option(min=100, help="Of the large file; the small one has a tenth.")] = 100_000,
    model: Annotated[str, typer.Option(help="A folder of checkpoints/.")] = "english-word",
) -> None:
    """Measure both sizes, then kill the large one twice and compare."""
    console = Console()
    sentences: list[str] = []
    for path in sorted((data / "novels").glob("*.txt")):
        sentences += re.split(r"(?<=[.!?]) +", path.read_text(encoding="utf-8").replace("\n", " "))
        if len(sentences) > lines:
            break
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (lines // 10, lines):
            source = folder / f"{count}.txt"
            source.write_text("\n".join(sentences[:count]) + "\n", encoding="utf-8")
            seconds, mib = _timed(_command(source, folder / f"{count}.jsonl", model))
            rows.append({"lines": count, "seconds": seconds, "lines_per_second": count / seconds, "peak_mib": mib})
        source, output = folder / f"{lines}.txt", folder / "killed.jsonl"
        partial = output.with_name(f".{output.name}.partial")
        for part in (1, 2):
            process = subprocess.Popen(_command(source, output, model), cwd=ROOT)
            while (
                not partial.exists() or partial.stat().st_size < part * (folder / f"{lines}.jsonl").stat().st_size / 4
            ):
                time.sleep(0.05)
            process.kill()
            process.wait()
        _timed(_command(source, output, model))
        same = output.read_bytes() == (folder / f"{lines}.jsonl").read_bytes()
        texts = [json.loads(line)["text"] for line in output.open(encoding="utf-8")]
        whole = texts == sentences[:lines]
    header = describe_host()
    path = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-bulk.json"
    record = {"header": header, "rows": rows, "equal_after_two_kills": same, "every_line_once_in_order": whole}
    path.write_text(json.dumps(record, indent=1) + "\n")
    table = Table(
        "lines", "seconds", "lines a second", "peak memory, MiB", title=f"{model}, start of the process included"
    )
    for row in rows:
        table.add_row(*(f"{row[key]:,.0f}" for key in ("lines", "seconds", "lines_per_second", "peak_mib")))
    console.print(table)
    console.print(f"after two kills: output equal {same}, every line once and in order {whole}")
    console.print(f"wrote {path}")


def _command(source: Path, output: Path, model: str) -> list[str]:
    return [sys.executable, "-m", "app", "score", str(source), "--lines", "-o", str(output), "--model", model]


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and the peak of resident memory in MiB."""
    code = "import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    code += "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return time.monotonic() - started, float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    typer.run(main)
