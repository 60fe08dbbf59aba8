"""Tables and lines for the terminal: a run's plan, a model's figures, a text's statistics."""

from typing import Any

from rich.console import Console
from rich.table import Table

from training.card import number
from training.run import Run
from training.stats import Statistics


def print_plan(console: Console, run: Run) -> None:
    config, splits = run.config, run.splits
    sizes = ", ".join(f"{len(split.ids):,} {name}" for name, split in splits.items())
    network, corpus, training = config.network, config.corpus, config.training
    layout = ", wrapped lines joined" if corpus.unwrap else ", lines shuffled" if corpus.shuffle_lines else ""
    epochs = training.steps * training.batch_size * training.bptt_length / len(splits["train"].ids)
    lines = [
        f"text      {sizes} tokens; level {corpus.level}, boundary {corpus.boundary}{layout}",
        f"network   vocabulary {network.vocabulary_size:,}, embedding {network.embedding_size}, {network.cell} "
        f"{list(network.hidden_sizes)}{', tied' if network.tied else ''}",
        f"training  {training.steps:,} steps of {training.batch_size} x {training.bptt_length} tokens "
        f"({epochs:.1f} epochs), dropout {training.dropout}, seed {training.seed}",
        f"run       {run.directory}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if len(splits["train"].ids) < 20_000:
        console.print(
            "advice    this is very little text: the model will mostly learn it by heart; more of it helps most",
            highlight=False,
            soft_wrap=True,
        )
    if corpus.boundary == "line" and len(splits["train"].starts) == 1 and _sentences(run) < 2:
        console.print("advice    the text is one long line: --boundary document suits it better", highlight=False)


def _sentences(run: Run) -> int:
    return int((run.splits["train"].ids == run.tokenizer.eos_id).sum())


def print_figures(console: Console, rows: dict[str, dict[str, Any]]) -> None:
    names = ("perplexity", "perplexity_per_word", "bits_per_character", "nats_per_character")
    table = Table()
    table.add_column("text")
    for title in ("perplexity/token", "perplexity/word", "bits/character", "nats/character", "tokens", "unknown"):
        table.add_column(title, justify="right")
    for label, row in rows.items():
        figures = [number(row[name], 4) for name in names]
        table.add_row(label, *figures, f"{row['tokens']:,}", f"{row['oov_rate'] or 0:.2%}")
    console.print(table)


def print_statistics(console: Console, statistics: Statistics) -> None:
    table = Table(title=f"level {statistics.level}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name in ("characters", "words", "lines", "tokens", "types", "hapaxes"):
        table.add_row(name, f"{getattr(statistics, name):,}")
    table.add_row("mean line length, characters", f"{statistics.line_length:.1f}")
    table.add_row("Zipf exponent", f"{statistics.zipf_exponent:.3f}")
    for size, rate in statistics.oov_rates.items():
        table.add_row(f"unknown in a held-out tenth, vocabulary {size:,}", f"{rate:.2%}")
    table.add_row("commonest", " ".join(repr(token)[1:-1] for token, _ in statistics.commonest[:12]))
    console.print(table)
