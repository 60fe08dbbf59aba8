"""What `train` without options makes of six small texts, beside an n-gram model of the same tokens.

    python -m benchmarks.small_texts --data DATA --names NAMES.txt [--only names,tang]

DATA holds dinos/dinos.txt, tinyshakespeare/input.txt, tang-poems/tang300.txt and chinese/sentences-tatoeba.txt; NAMES
is a list of first names, one a line, of which the first 40 KB are taken. Prints a row of a table for each text.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

TEXTS: dict[str, tuple[str, int]] = {
    "names": ("", 40_000),
    "dinosaurs": ("dinos/dinos.txt", 1 << 30),
    "shakespeare-20k": ("tinyshakespeare/input.txt", 20_000),
    "shakespeare-200k": ("tinyshakespeare/input.txt", 200_000),
    "tang": ("tang-poems/tang300.txt", 1 << 30),
    "chinese": ("chinese/sentences-tatoeba.txt", 120_000),
}
"""A file below DATA by name, and how many of its bytes are taken, to the end of a line."""


def beginning_of(path: Path, most: int) -> str:
    """At most `most` bytes of a file, in whole lines."""
    content = path.read_bytes()
    if len(content) > most:
        content = content[: content.rindex(b"\n", 0, most) + 1]
    return content.decode("utf-8")


def measure(text: str, folder: Path, threads: int) -> tuple[dict[str, Any], float]:
    """What the card says of a model that was trained on `text` without options, and the seconds of the command."""
    (folder / "text.txt").write_text(text, encoding="utf-8")
    started = time.monotonic()
    command = [sys.executable, "-m", "training", "train", str(folder / "text.txt"), "--threads", str(threads)]
    out = ["--out", str(folder / "model"), "--run", str(folder / "run")]
    subprocess.run([*command, *out], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    about: dict[str, Any] = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))["about"]
    return about, seconds


def main(
    data: Annotated[Path, typer.Option(help="The folder of texts.")],
    names: Annotated[Path, typer.Option(help="A list of first names.")],
    only: Annotated[str, typer.Option(help=f"Texts, comma-separated, of: {', '.join(TEXTS)}.")] = "",
    threads: Annotated[int, typer.Option(help="Threads of a training.", min=1)] = 2,
) -> None:
    """Train on six small texts, and print perplexities per token beside those of a 5-gram."""
    typer.echo("| text | validation | 5-gram | test | 5-gram | minutes |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in only.split(",") if only else TEXTS:
        path, most = TEXTS[name]
        with tempfile.TemporaryDirectory() as folder:
            about, seconds = measure(beginning_of(data / path if path else names, most), Path(folder), threads)
        cells = [
            f"{about['figures'][split][key]:.2f}"
            for split in ("validation", "test")
            for key in ("perplexity", "ngram_perplexity")
        ]
        typer.echo(f"| {name} | {' | '.join(cells)} | {seconds / 60:.1f} |")


if __name__ == "__main__":
    typer.run(main)
