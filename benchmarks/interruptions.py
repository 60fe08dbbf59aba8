"""Is anything lost when a training is killed? kill -9 at random moments, each time of a training of its own.

    python -m benchmarks.interruptions [--kills 20] [--seed 0]

A tiny training runs whole once. Then, for each kill, the same training is killed at a random moment between its first
file and its end, what it has left is read, and it is resumed to its end: weights, optimizer and average, the best
weights and the exported checkpoint must have the bits of the whole one. Ends with status 1 where one has not. A kill
takes about ten seconds.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from training.persistence import BEST, read_best, read_saved

ROOT = Path(__file__).parents[1]

RUN, CHECKPOINT = Path("runs/tiny"), Path("checkpoints/tiny")
OPTIONS = (
    "--level char --boundary line --hidden-sizes 16 --embedding-size 8 --batch-size 4 --bptt-length 16 --dropout 0.2 "
    "--averaging ema --validate-every 20 --checkpoint-every 3 --patience 99 --threads 1"
)
STEPS = 1500


@dataclass(frozen=True)
class Killed:
    """One kill. found: what the run stood at afterwards. resumed, exported: whether all is as in the whole run."""

    seconds: float
    found: str
    loadable: bool
    resumed: bool
    exported: bool


def main(
    kills: Annotated[int, typer.Option(help="Trainings that are killed.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    steps: Annotated[int, typer.Option(help="Of each training.", min=20)] = STEPS,
) -> None:
    """Kill trainings at random moments, resume them, and compare the bits."""
    table = Table("kill", "after, s", "what it left", "loadable", "resumed", "exported")
    rows = measure(kills, seed, steps)
    for number, row in enumerate(rows, 1):
        seconds, found, *marks = astuple(row)
        table.add_row(str(number), f"{seconds:.2f}", found, *("yes" if mark else "NO" for mark in marks))
    Console(width=100).print(table)
    Console().print("resumed, exported: the same bits as the training that was never killed")
    if not all(row.loadable and row.resumed and row.exported for row in rows):
        raise typer.Exit(1)


def measure(kills: int, seed: int, steps: int) -> list[Killed]:
    """What became of each training."""
    chooser = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        begun, ended = _run_whole(whole, steps)
        moments = [chooser.uniform(begun, ended) for _ in range(kills)]
        return [_kill(Path(place) / str(number), moment, steps, whole) for number, moment in enumerate(moments)]


def _run_whole(folder: Path, steps: int) -> tuple[float, float]:
    """Trains to the end: seconds from the start of the process to its first file, and to its end."""
    started = time.monotonic()
    process = _start(folder, steps)
    begun = None
    while process.poll() is None:
        if begun is None and (folder / RUN.parent).exists():
            begun = time.monotonic() - started
        time.sleep(0.005)
    if process.returncode or begun is None:
        raise RuntimeError((folder / "printed.txt").read_text())
    return begun, time.monotonic() - started


def _kill(folder: Path, moment: float, steps: int, whole: Path) -> Killed:
    process = _start(folder, steps)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()
    found, loadable = _look(folder)
    resumed = (folder / RUN / "run.json").exists()
    again = _start(folder, steps, "resume" if resumed else "train")
    ended_well = again.wait() == 0
    return Killed(moment, found, loadable, ended_well and _same_run(folder, whole), _same_checkpoint(folder, whole))


def _look(folder: Path) -> tuple[str, bool]:
    """What a kill has left, in words, and whether a run that had saved can be loaded."""
    directory = folder / RUN
    if not directory.exists():
        return "no run yet", True
    try:
        saved = read_saved(directory)
        if saved and saved.position.best_step:
            read_best(directory)
    except (ValueError, OSError) as error:
        return str(error), False
    if saved is None:
        return "a run, nothing saved yet", True
    exported = ", exported" if (folder / CHECKPOINT).exists() else ""
    return f"step {saved.position.step}{exported}", saved.damage is None


def _same_run(folder: Path, whole: Path) -> bool:
    """Whether two runs have ended with the same bits."""
    one, other = (read_saved(each / RUN) for each in (folder, whole))
    if one is None or other is None or one.tensors.keys() != other.tensors.keys():
        return False
    same = all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    return same and (folder / RUN / BEST).read_bytes() == (whole / RUN / BEST).read_bytes()


def _same_checkpoint(folder: Path, whole: Path) -> bool:
    one, other = (each / CHECKPOINT / "model.safetensors" for each in (folder, whole))
    return one.exists() and one.read_bytes() == other.read_bytes()


def _start(folder: Path, steps: int, command: str = "train") -> "subprocess.Popen[bytes]":
    """A command of training in a process of its own, in a folder with a text."""
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text(_text(), encoding="utf-8")
    asked = ["text.txt", "--out", str(CHECKPOINT), "--steps", str(steps), *OPTIONS.split()]
    arguments = asked if command == "train" else [str(RUN), "--threads", "1"]
    with (folder / "printed.txt").open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "training", command, *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )


def _text() -> str:
    """Sentences with a grammar to learn, a line each."""
    chooser = random.Random(1)
    subjects, verbs, objects = ("the cat", "a dog", "my bird"), ("sees", "likes", "wants"), ("fish", "a bone", "seeds")
    words = ((subjects, verbs, objects) for _ in range(400))
    return "".join(" ".join(map(chooser.choice, row)) + ".\n" for row in words)


if __name__ == "__main__":
    typer.run(main)
