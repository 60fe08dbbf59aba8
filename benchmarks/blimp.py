"""BLiMP: of two sentences that differ in one point of grammar, does the model find the good one likelier?

    python benchmarks/blimp.py FOLDER [--url http://127.0.0.1:8000] [--model NAME]

FOLDER holds BLiMP's .jsonl files (Warstadt et al. 2020). Every sentence is scored through POST /score of a running
server, from <eos> to <eos>; a pair is right when the good sentence has the higher total, a tie is wrong.

Prints for each paradigm, and as the mean over the paradigms, the share that is right by the open totals (unknown words
are charged their spelling, where the model has a speller) and by the closed ones (charged as <unk>), and how many pairs
hold a word that the model does not know.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

PAIRS = 256
"""Pairs in one request."""


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of BLiMP's .jsonl files.", exists=True, file_okay=False)],
    url: Annotated[str, typer.Option(help="Where the server is.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Name of a served model; not given: the default.")] = None,
) -> None:
    """Accuracy on BLiMP, by POST /score."""
    table = Table("paradigm", "pairs", "right, open", "right, closed", "with unknown words")
    shares: list[list[float]] = []
    with httpx.Client(base_url=url, timeout=300) as client:
        for file in track(sorted(folder.glob("*.jsonl")), "scoring", console=Console(stderr=True)):
            with file.open(encoding="utf-8") as lines:
                pairs = [json.loads(line) for line in lines]
            counts = [0, 0, 0, 0]
            for start in range(0, len(pairs), PAIRS):
                chunk = pairs[start : start + PAIRS]
                texts = [text for pair in chunk for text in (pair["sentence_good"], pair["sentence_bad"])]
                answer = client.post("/score", json={"text": texts, "model": model})
                answer.raise_for_status()
                scores = answer.json()["scores"]
                for good, bad in zip(scores[::2], scores[1::2], strict=True):
                    counts[0] += 1
                    counts[1] += _open(good) > _open(bad)
                    counts[2] += good["logprob"] > bad["logprob"]
                    counts[3] += bool(good["oov"] or bad["oov"])
            pairs_of_all, *found = counts
            shares.append([count / pairs_of_all for count in found])
            table.add_row(file.stem, str(pairs_of_all), *map("{:.1%}".format, shares[-1]))
    table.add_section()
    means = [statistics.mean(column) for column in zip(*shares, strict=True)]
    table.add_row(f"mean of {len(shares)} paradigms", "", *map("{:.1%}".format, means))
    Console().print(table)


def _open(score: dict[str, Any]) -> float:
    total = score["logprob"] if score["logprob_open"] is None else score["logprob_open"]
    return float(total)


if __name__ == "__main__":
    typer.run(main)
