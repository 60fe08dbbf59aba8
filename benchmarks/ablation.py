"""What each piece of the recipe for WikiText-2 is worth: the recipe, and the recipe without it, for the same time each.

    python -m benchmarks.ablation --data DATA [--minutes 6] [--only dropconnect,averaging]

DATA holds wikitext-2/ with train.txt, valid.txt, test.txt. Runs one training after another with `python -m training`,
then writes validation and test perplexities as a table.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.host import cpu_slug, describe_host
from models.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
RECIPE = ROOT / "recipes" / "wikitext-2.toml"

WITHOUT: dict[str, list[str]] = {
    "the recipe": [],
    "dropout between, before and after layers": ["--dropout", "0", "--input-dropout", "0", "--output-dropout", "0"],
    "one mask for all tokens (plain dropout instead)": ["--no-locked"],
    "word dropout": ["--word-dropout", "0"],
    "dropconnect": ["--dropconnect", "0"],
    "activation and temporal penalties": ["--activation-l2", "0", "--temporal-l2", "0"],
    "weight decay": ["--weight-decay", "0"],
    "tied weights": ["--no-tied"],
    "variable windows": ["--truncation", "fixed"],
    "average of the weights": ["--averaging", "none"],
    "sampled softmax": ["--sampled-softmax", "0"],
}


def main(
    data: Annotated[Path, typer.Option(help="Folder of wikitext-2/.", exists=True, file_okay=False)],
    minutes: Annotated[float, typer.Option(help="Of each training.")] = 6.0,
    only: Annotated[str | None, typer.Option(help="Parts of names, comma-separated; the recipe always runs.")] = None,
) -> None:
    """Train with and without each piece at equal time."""
    console = Console()
    chosen = {
        name: options
        for name, options in WITHOUT.items()
        if not options or only is None or any(part in name for part in only.split(","))
    }
    rows = []
    for name, options in chosen.items():
        console.print(f"without {name}" if options else name)
        rows.append({"without": name if options else None, **_train(data, minutes, options)})
    header = describe_host() | {"minutes": minutes}
    path = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-ablation.json"
    path.write_text(json.dumps({"header": header, "rows": rows}, indent=1) + "\n")
    table = Table("without", "validation", "test", "epochs", title=f"perplexity after {minutes:g} minutes")
    for row in rows:
        table.add_row(
            row["without"] or "(the recipe)",
            f"{row['validation']:.1f}",
            f"{row['test']:.1f}",
            f"{row['epochs']:.1f}",
        )
    console.print(table)
    console.print(f"wrote {path}")


def _train(data: Path, minutes: float, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "checkpoints" / "ablation"
        common = ["--recipe", str(RECIPE), "--data", str(data), "--out", str(out), "--run", f"{folder}/runs/ablation"]
        limit = ["--max-minutes", str(minutes)]
        command = [sys.executable, "-m", "training", "train", *common, *limit, *options]
        subprocess.run(command, check=True, cwd=ROOT)
        about = load_checkpoint(out).about
    figures = about["figures"]
    return {
        "validation": figures["validation"]["perplexity"],
        "test": figures["test"]["perplexity"],
        "epochs": about["epochs"],
        "steps": about["steps"],
    }


if __name__ == "__main__":
    typer.run(main)
