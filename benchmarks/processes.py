"""One process against two at the same total batch, beside what another seed changes.

    python -m benchmarks.processes --data DATA [--steps 400]

DATA holds tinyshakespeare/input.txt. Three seeds with one process, the first of them with two.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.host import cpu_slug, describe_host

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

SEEDS = (0, 1, 2)
SETTINGS = "--level char --embedding-size 64 --hidden-sizes 256 --batch-size 32 --bptt-length 64 --learning-rate 4e-3"


def main(
    data: Annotated[Path, typer.Option(help="Folder of tinyshakespeare/.", exists=True, file_okay=False)],
    steps: Annotated[int, typer.Option(min=10, help="Of each training.")] = 400,
) -> None:
    """Train four times and compare the losses of the held-out text."""
    console = Console()
    text = (data / "tinyshakespeare" / "input.txt").resolve()
    alone = [_validation(text, steps, seed, processes=1) for seed in SEEDS]
    two = _validation(text, steps, SEEDS[0], processes=2)
    header = describe_host() | {"steps": steps}
    record = {"header": header, "one_process": dict(zip(SEEDS, alone, strict=True)), "two_processes": {SEEDS[0]: two}}
    path = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-processes.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    table = Table("processes", "seed", "validation, nats a character")
    for seed, nats in zip(SEEDS, alone, strict=True):
        table.add_row("1", str(seed), f"{nats:.4f}")
    table.add_row("2", str(SEEDS[0]), f"{two:.4f}")
    console.print(table)
    console.print(
        f"two processes are {two - alone[0]:+.4f} from one of the same seed; three seeds have mean {mean(alone):.4f} "
        f"and a standard deviation of {stdev(alone):.4f}"
    )


def _validation(text: Path, steps: int, seed: int, processes: int) -> float:
    """The best validation loss of a training, in nats."""
    with tempfile.TemporaryDirectory() as folder:
        options = [*SETTINGS.split(), "--steps", str(steps), "--validate-every", str(steps), "--seed", str(seed)]
        options += ["--out", "out"]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
        command = [sys.executable, *launcher, "-m", "training", "train", str(text), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        lines = map(json.loads, (Path(folder) / "runs" / "out" / "log.jsonl").read_text().splitlines())
        return min(float(line["valid_nats"]) for line in lines if "valid_nats" in line)


if __name__ == "__main__":
    typer.run(main)
