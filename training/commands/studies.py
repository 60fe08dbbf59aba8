"""What texts, runs and networks are like: statistics, gradients, comparisons, learning rates, pictures."""

import json
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from models.documents.readers import find_files, read_documents, read_texts
from models.documents.text import CorpusError
from models.text.levels import Level
from models.text.tokenizer import Tokenizer
from training.commands.common import (
    Files,
    Json,
    Threads,
    Unwrap,
    console,
    errors,
    say,
    say_json,
    show_progress_apart,
    use_machine,
)
from training.commands.options import absolute
from training.data.corpus import CorpusConfig
from training.data.tokens import tokenize
from training.defaults import choose_corpus, describe
from training.initialisation import Initialisation
from training.persistence import Report
from training.plots import plot_comparison, plot_flows, plot_range, plot_run, plot_zipf
from training.prepare import make_trainer, prepare_run
from training.recipe import Recipe, RecipeError, override, read_recipe
from training.run import open_run
from training.studies.comparison import average_checkpoints, diverged, suggest_rate, summarise
from training.studies.gradient_flow import KINDS, measure_flows
from training.studies.statistics import measure
from training.tables import print_comparison, print_flows, print_statistics
from training.tasks.table import task_of
from training.trainer import TrainingError


def stats(
    texts: Files,
    level: Annotated[Level | None, typer.Option(help="What a token is; words where the text has spaces.")] = None,
    unwrap: Unwrap = False,
    plot: Annotated[Path | None, typer.Option(help="Write the Zipf plot to this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Tokens, types, unknown words by vocabulary size, and Zipf's law. Look here before you train."""
    files = find_files(texts)
    shape = describe(read_documents(files, unwrap))
    level = level or ("word" if shape.spaces > 0.05 else "char")
    statistics, frequencies = measure(read_texts(files, unwrap), level)
    if as_json:
        say_json(statistics.to_json())
    else:
        print_statistics(console, statistics)
        chosen = choose_corpus(CorpusConfig(), shape)
        layout = ", wrapped lines joined" if chosen.unwrap else ", lines shuffled" if chosen.shuffle_lines else ""
        say(f"`train` would choose level {chosen.level}, boundary {chosen.boundary}{layout}.")
    if plot is not None:
        plot_zipf(frequencies, statistics.zipf_exponent, statistics.zipf_constant, plot)
        say(f"wrote {plot}", errors)


def gradient_flow(
    texts: Annotated[list[Path], typer.Argument(help="Text files, or folders of them, read by characters.")],
    out: Annotated[Path, typer.Option(help="Where the figures go; the picture goes beside them.")] = Path(
        "gradient-flow.json"
    ),
    cells: Annotated[str, typer.Option(help="Kinds of cell, separated by commas.")] = ",".join(KINDS),
    hidden_size: Annotated[int, typer.Option(min=1, help="Units of the layer.")] = 128,
    distance: Annotated[int, typer.Option(min=3, help="Tokens to look back.")] = 100,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps of each network; 0: measure untrained networks alone.")
    ] = 300,
    initialisation: Annotated[Initialisation, typer.Option(help="How the layer's matrices begin.")] = "uniform",
    forget_bias: Annotated[float, typer.Option(help="First bias of the LSTM's forget gate.")] = 3.0,
    threads: Threads = None,
) -> None:
    """Why gradients vanish or explode: how the loss of a token depends on the state some tokens before it."""
    use_machine(threads)
    kinds = [kind for kind in KINDS if kind in cells.split(",")]
    if len(kinds) != len(cells.split(",")):
        raise RecipeError(f"--cells: {cells!r}: known are {', '.join(KINDS)}")
    contents = read_texts(find_files(texts))
    tokenizer = Tokenizer.train(contents, "char", "document")
    ids = tokenize(contents, tokenizer).ids
    if len(ids) < 10 * distance:
        raise CorpusError(f"{len(ids)} characters are too few to look back {distance}; give some thousand")
    with show_progress_apart("training", steps * len(kinds)) as on_step:
        flows = measure_flows(
            ids, len(tokenizer), kinds, hidden_size, distance, steps, initialisation, forget_bias, on_step
        )
    rows = [flow.to_json() for flow in flows]
    out.write_text(json.dumps({"hidden_size": hidden_size, "flows": rows}, indent=1) + "\n", encoding="utf-8")
    print_flows(console, rows)
    picture = out.with_suffix(".png")
    plot_flows(rows, picture)
    say(f"wrote {out} and {picture}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, e.g. runs/*.")],
    plot: Annotated[Path | None, typer.Option(help="Draw their validation curves into this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Runs side by side, best first."""
    summaries = [summarise(run) for run in runs]
    if as_json:
        say_json([summary.to_json() for summary in summaries])
    else:
        print_comparison(console, summaries)
    if plot is not None:
        names = [str(run) if len({s.name for s in summaries}) < len(summaries) else run.resolve().name for run in runs]
        curves = [[(minutes, value) for _, minutes, value in summary.validations] for summary in summaries]
        plot_comparison(dict(zip(names, curves, strict=True)), summaries[0].measure.label, plot)
        say(f"wrote {plot}", errors)


def average(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints of one network and one vocabulary.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
) -> None:
    """Write the mean of the weights of checkpoints, which is often better than the best of them."""
    averaged = average_checkpoints(checkpoints, out)
    say(f"wrote {out}, the mean of {len(checkpoints)} checkpoints ({averaged.storage})")


def lr_range(
    texts: Annotated[list[Path] | None, typer.Argument(help="Text files, or folders of them.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file, as for `train`.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that the recipe's paths start from.")] = None,
    highest: Annotated[float, typer.Option(help="Learning rate at the end.")] = 1.0,
    steps: Annotated[int, typer.Option(min=20, help="Steps to get to the highest rate.")] = 200,
    plot: Annotated[Path | None, typer.Option(help="Draw the loss against the rate into this PNG file.")] = None,
    threads: Threads = None,
) -> None:
    """Which learning rate to take: raise it until the loss diverges, and see where the loss falls fastest."""
    use_machine(threads)
    test = {"schedule": "range", "steps": steps, "learning_rate": highest, "averaging": "none", "sampled_softmax": 0}
    corpus = {"train": absolute(texts)} if texts else {}
    asked = override(read_recipe(recipe) if recipe else Recipe(), {"corpus": corpus, "training": test})
    asked = replace(asked, training={name: value for name, value in asked.training.items() if name != "max_minutes"})
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_run(Path(folder) / "range", asked, data or Path(), "lr-range", progress=show_progress_apart)
        trainer = make_trainer(prepared)
        with show_progress_apart("raising the learning rate", steps) as on_step:

            def note(report: Report) -> None:
                if report.loss is not None:
                    reports.append(report)
                    on_step(1)
                    if diverged(reports):
                        trainer.request_stop()

            with suppress(TrainingError):  # a gradient that is not finite is the end of the test
                trainer.run(note)
    suggested = suggest_rate(reports)
    if plot is not None:
        losses = [report.loss or 0.0 for report in reports]
        plot_range([report.learning_rate for report in reports], losses, suggested, plot)
        say(f"wrote {plot}", errors)
    if suggested is None:
        raise TrainingError("the loss never fell: begin lower, with a smaller --highest")
    say(
        f"the loss falls fastest at {suggested:.1e}; it diverged, or the test ended, at {reports[-1].learning_rate:.1e}"
    )


def plot(run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/book.")]) -> None:
    """Draw the learning curve of a run, finished or not, into its directory."""
    say(f"wrote {plot_run(run, task_of(open_run(run)).measure.label)}")
