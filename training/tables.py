"""Tables and lines for the terminal: a run's plan, a model's figures, a text's statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from training.display import clock
from training.estimate import estimate
from training.evaluation_figures import FIGURES, Figure, Row, number
from training.run import Run
from training.studies.comparison import RunSummary
from training.studies.statistics import Statistics

FEWEST_STEPS = 150
"""With fewer steps a network has learned little but how often each token occurs."""


def print_plan(console: Console, run: Run) -> None:
    config, splits = run.config, run.splits
    sizes = ", ".join(f"{len(text.ids):,} {name}" for name, text in splits.items())
    network, corpus, training = config.network, config.corpus, config.training
    layout = ", wrapped lines joined" if corpus.unwrap else ", lines shuffled" if corpus.shuffle_lines else ""
    epochs = training.steps * training.batch_size * training.bptt_length / len(splits["train"].ids)
    expected = estimate(network, training)
    step_seconds = estimate(network, replace(training, steps=1, max_minutes=None)).seconds
    lines = [
        f"text      {sizes} tokens; level {corpus.level}, boundary {corpus.boundary}{layout}",
        f"network   vocabulary {network.vocabulary_size:,}, embedding {network.embedding_size}, {network.cell} "
        f"{list(network.hidden_sizes)}{', tied' if network.tied else ''}",
        f"training  {training.steps:,} steps of {training.batch_size} x {training.bptt_length} tokens "
        f"({epochs:.1f} epochs), dropout {training.dropout}, seed {training.seed}",
        f"estimate  about {clock(expected.seconds)} on this machine, {expected.bytes / 1e9:.1f} GB of memory",
        f"run       {run.directory}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if training.max_minutes is not None and 60 * training.max_minutes < FEWEST_STEPS * step_seconds:
        console.print(
            f"advice    {training.max_minutes:.1f} minutes of training are too short to learn anything from this text "
            "with this network: give a longer --max-minutes, or a smaller --hidden-sizes",
            highlight=False,
            soft_wrap=True,
        )
    if len(splits["train"].ids) < 20_000:
        console.print(
            "advice    this is very little text: the model will mostly learn it by heart; more text helps most",
            highlight=False,
            soft_wrap=True,
        )
    elif epochs < 1 and training.max_minutes is None:
        console.print(
            f"advice    the text is large, these steps read {epochs:.0%} of it; --max-minutes sets how long to train",
            highlight=False,
            soft_wrap=True,
        )
    if corpus.boundary == "line" and len(splits["train"].starts) == 1 and splits["train"].sentences < 2:
        console.print("advice    the text is one long line: --boundary document suits it better", highlight=False)


def print_figures(console: Console, rows: Mapping[str, Row], figures: Sequence[Figure] = FIGURES) -> None:
    shown = [(figure.title, figure) for figure in figures if figure.title]
    table = Table()
    table.add_column("text")
    for title, _ in shown:
        table.add_column(title, justify="right")
    for label, row in rows.items():
        table.add_row(label, *(figure.text(row, 4) for _, figure in shown))
    console.print(table)


def print_comparison(console: Console, runs: Sequence[RunSummary]) -> None:
    table = Table(title="runs, best first")
    for title in ("run", "parameters", "steps", "tokens", "minutes", "best validation perplexity", "at step"):
        table.add_column(title, justify="left" if title == "run" else "right")
    for run in sorted(runs, key=lambda run: run.cost):
        table.add_row(
            run.name,
            f"{run.parameters:,}",
            f"{run.steps:,}",
            f"{run.tokens:,}",
            f"{run.minutes:.1f}",
            number(run.best_perplexity, 2),
            f"{run.best_step:,}" if run.best_step else "–",
        )
    console.print(table)


def print_flows(console: Console, rows: list[dict[str, Any]]) -> None:
    """Gradient norms at some distances, and the factor with which they change from token to token."""
    furthest = len(rows[0]["norms"]) - 1
    distances = sorted({0, min(10, furthest), furthest // 2, furthest})
    table = Table(title="norm of dL/dh by distance")
    table.add_column("cell")
    table.add_column("training")
    for distance in distances:
        table.add_column(str(distance), justify="right")
    table.add_column("factor a token", justify="right")
    for row in rows:
        trained = f"{row['steps']} steps, {row['loss']:.2f} nats" if row["steps"] else "none"
        norms = [f"{row['norms'][distance]:.1e}" for distance in distances]
        table.add_row(row["kind"], trained, *norms, f"{row['decay']:.3f}")
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
