"""Characters, subwords and words on the same books for the same time: bits per character of a book held out.

    python -m benchmarks.levels --data DATA [--minutes 6]

DATA holds novels/ and timemachine/timemachine.txt. Settings are those that `train` chooses for each level. A word model
that is told nothing of an unknown word's letters would win by leaving them out: its spelling counts (open).
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.host import cpu_slug, describe_host
from models.checkpoint.format import load_checkpoint

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

LEVELS = ("char", "bpe", "word")
CODE_POINTS = 0x110000
"""Of Unicode: an unknown character is charged as one of them."""


def main(
    data: Annotated[Path, typer.Option(help="Folder of the texts.", exists=True, file_okay=False)],
    minutes: Annotated[float, typer.Option(help="Of each training, a speller's not counted.")] = 6.0,
) -> None:
    """Train one model a level and evaluate all on one book."""
    console = Console()
    header = describe_host() | {"minutes": minutes}
    table = Table("level", "parameters", "text read", "bits a character, open", "closed", title="The Time Machine")
    rows = []
    for level in LEVELS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "checkpoints" / level
            command = [sys.executable, "-m", "training", "train", str(data / "novels"), "--level", level]
            command += ["--test", str(data / "timemachine" / "timemachine.txt"), "--test-unwrap"]
            command += ["--max-minutes", str(minutes), "--out", str(out), "--run", f"{folder}/runs/{level}"]
            subprocess.run(command, check=True, cwd=ROOT)
            about = load_checkpoint(out).about
        test = about["figures"]["test"]
        closed = test["bits_per_character_closed"]
        spelled = closed + test["oov"] / test["characters"] * math.log2(CODE_POINTS)
        row = {
            "level": level,
            "parameters": about["parameters"],
            "epochs": about["epochs"],
            "open": spelled if level == "char" else test["bits_per_character"],
            "closed": closed,
        }
        rows.append(row)
        table.add_row(
            level, f"{row['parameters']:,}", f"{row['epochs']:.2f} epochs", f"{row['open']:.3f}", f"{closed:.3f}"
        )
    path = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-levels.json"
    path.write_text(json.dumps({"header": header, "rows": rows}, indent=1) + "\n")
    console.print(table)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
