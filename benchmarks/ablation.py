"""What each piece of regularisation is worth where it is needed: a text that is read many times over.

    python -m benchmarks.ablation --data DATA [--minutes 1.5] [--tokens 40000] [--only dropconnect,average]

DATA holds wikitext-2/ with train.txt, valid.txt. The first tokens of the training text with the 5,000 commonest types,
a network of many more parameters, all pieces together; then the same without each one, for the same time; and without
any. On a machine that does nothing else: what is compared is what a time is good for.
"""

import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from models.process import prepare_process

prepare_process()

import math  # noqa: E402

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.host import cpu_slug, describe_host  # noqa: E402
from models.config import NetworkConfig  # noqa: E402
from training.config import TrainingConfig  # noqa: E402
from training.data.reader import read_corpus  # noqa: E402
from training.persistence import Report  # noqa: E402
from training.recipe import override, read_recipe  # noqa: E402
from training.tasks.language_model import LanguageModelTask  # noqa: E402
from training.trainer import Trainer  # noqa: E402

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TYPES, VALIDATION_TOKENS = 5_000, 40_000
RECIPE = ROOT / "recipes" / "wikitext-2.toml"

EVERYTHING: dict[str, Any] = {
    "batch_size": 32,
    "bptt_length": 35,
    "truncation": "variable",
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "clip_norm": 0.5,
    "weight_decay": 0.1,
    "averaging": "ema",
    "average_decay": 0.998,
    "locked": True,
    "input_dropout": 0.4,
    "dropout": 0.3,
    "output_dropout": 0.4,
    "word_dropout": 0.1,
    "dropconnect": 0.3,
    "activation_l2": 1.0,
    "temporal_l2": 0.5,
}


@dataclass(frozen=True)
class Variant:
    """Settings that differ from `EVERYTHING`."""

    name: str
    training: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)


NO_DROPOUT = {"input_dropout": 0.0, "dropout": 0.0, "output_dropout": 0.0}
NO_PENALTIES = {"activation_l2": 0.0, "temporal_l2": 0.0}

VARIANTS = [
    Variant("everything"),
    Variant("without dropout of values", NO_DROPOUT),
    Variant("without one mask a window (plain dropout instead)", {"locked": False}),
    Variant("without word dropout", {"word_dropout": 0.0}),
    Variant("without dropconnect", {"dropconnect": 0.0}),
    Variant("without activation and temporal penalties", NO_PENALTIES),
    Variant("without weight decay", {"weight_decay": 0.0}),
    Variant("without tied weights", network={"tied": False}),
    Variant("without windows of variable length", {"truncation": "fixed"}),
    Variant("without average of the weights", {"averaging": "none"}),
    Variant(
        "without any of them",
        NO_DROPOUT
        | NO_PENALTIES
        | {"word_dropout": 0.0, "dropconnect": 0.0, "weight_decay": 0.0, "truncation": "fixed", "averaging": "none"},
        {"tied": False},
    ),
]


def main(
    data: Annotated[Path, typer.Option(help="Folder of wikitext-2/.", exists=True, file_okay=False)],
    minutes: Annotated[float, typer.Option(help="Of each training.")] = 1.5,
    tokens: Annotated[int, typer.Option(help="Of the training text.")] = 40_000,
    only: Annotated[str | None, typer.Option(help="Parts of names, comma-separated; everything always runs.")] = None,
) -> None:
    """Train with and without each piece at equal time."""
    console = Console()
    chosen = [
        one for one in VARIANTS if one is VARIANTS[0] or only is None or any(p in one.name for p in only.split(","))
    ]
    header = describe_host() | {"minutes": minutes, "tokens": tokens}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, Progress(console=console) as progress:
        folder = Path(name)
        recipe = override(read_recipe(RECIPE), {"corpus": {"vocabulary_size": TYPES}})
        _, tokenizer, splits, _ = read_corpus(recipe, data, folder)
        shape = NetworkConfig(len(tokenizer), 200, (320, 320), projection_size=200, tied=True)
        for number, variant in enumerate(chosen):
            settings = EVERYTHING | {"steps": 10**6, "validate_every": 10**6, "checkpoint_every": 10**6}
            config = TrainingConfig(**settings | {"max_minutes": minutes} | variant.training)
            directory = folder / str(number)
            directory.mkdir()
            task = LanguageModelTask(
                replace(shape, **variant.network),
                config,
                splits["train"].ids[:tokens],
                splits["validation"].ids[:VALIDATION_TOKENS],
                tokenizer.eos_id,
            )
            trainer = Trainer(task, config, directory)
            bar = progress.add_task(variant.name, total=1.0)
            losses: list[float] = []

            def show(report: Report, bar: Any = bar, losses: list[float] = losses) -> None:
                progress.update(bar, completed=report.share_done)
                if report.loss is not None:
                    losses.append(report.loss)

            position = trainer.run(show)
            if position.stopped is None:  # Ctrl-C
                raise typer.Exit(130)
            assert position.best is not None
            recent = losses[-100:]
            rows.append(
                {
                    "name": variant.name,
                    "validation": math.exp(position.best),
                    "training": math.exp(sum(recent) / len(recent)),
                    "epochs": position.step * task.tokens_per_step / tokens,
                }
            )
    path = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-ablation.json"
    path.write_text(json.dumps({"header": header, "rows": rows}, indent=1) + "\n")
    table = Table("settings", "validation", "training", "epochs", title=f"perplexity after {minutes:g} minutes")
    for row in rows:
        table.add_row(row["name"], f"{row['validation']:.1f}", f"{row['training']:.1f}", f"{row['epochs']:.1f}")
    console.print(table)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
