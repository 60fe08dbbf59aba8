"""The command line: arguments to functions, results to the terminal. It computes nothing itself."""

import json
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from models.checkpoint.format import SPELLER, CheckpointError, add_speller, check_replaceable, load_checkpoint
from models.config import Cell, NumberType
from models.documents.text import CorpusError, read_text, size, unwrapped, whole_file
from models.text.levels import Level
from models.text.tokenizer import Boundary, Normalization, Tokenizer
from training.config import Precision
from training.data.batching import Partition, Truncation
from training.data.corpus import CorpusConfig, Part, find_files
from training.data.tokens import tokenize
from training.defaults import choose_corpus, describe
from training.display import TrainingDisplay, clock, counting, curves, sample_line, stepping
from training.distributed import Group, join_group
from training.evaluate import Reset, evaluate_texts, lines_of
from training.export import add_figures, add_ngram, describe_speller, export_run, ngram_perplexities, trained_speller
from training.initialisation import Initialisation
from training.optimisation import Averaging, Optimizer, Schedule
from training.plots import PlotError, plot_comparison, plot_flows, plot_range, plot_run, plot_zipf
from training.recipe import Recipe, RecipeError, override, read_recipe
from training.run import Run, RunError, check_writable, open_run, prepare_run
from training.speller import train_speller
from training.studies.comparison import average_checkpoints, diverged, suggest_rate, summarise
from training.studies.gradient_flow import KINDS, measure_flows
from training.studies.ngram import MAX_ORDER, KneserNey
from training.studies.statistics import measure
from training.tables import print_comparison, print_figures, print_flows, print_plan, print_statistics
from training.trainer import Report, TrainingError

INTERRUPTED = 130

app = typer.Typer(
    name="training",
    help="Train small recurrent language models on your own text. Begin with:  train book.txt --out checkpoints/book",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PLAIN_WIDTH = None if sys.stdout.isatty() else 120
"""Columns of tables that go to a file or a pipe."""

console = Console(width=PLAIN_WIDTH)
errors = Console(stderr=True)

Texts = Annotated[list[Path] | None, typer.Argument(help="Text files, or folders of them (*.txt, *.text, *.md).")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores unless given.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda on a machine with a GPU.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard, too.")]
Excluded = Annotated[list[str] | None, typer.Option(help="Pattern of files to leave out, as held-out ones.")]
StorageOption = Annotated[NumberType | None, typer.Option(help="How the weights are stored: int8 is smallest.")]


_NOISE = "Regularisation"


def option(help: str, panel: str, *names: str, **settings: Any) -> Any:  # noqa: A002
    """One of the many options of `train`, in its panel of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


@app.command()
def train(
    texts: Texts = None,
    out: Annotated[Path | None, typer.Option(help="The checkpoint to write, e.g. checkpoints/book.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file with everything below; options win over it.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that the recipe's paths start from.")] = None,
    run: Annotated[
        # torchrun takes the first name for one of its own options.
        Path | None, typer.Option("--run", "--run-dir", help="The run directory; runs/NAME unless given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete a run of the same name and start anew.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Begin with this checkpoint's weights and go on with other text (fine-tuning)."),
    ] = None,
    tensorboard: TensorBoard = False,
    threads: Threads = None,
    device: Device = "cpu",
    valid: Annotated[list[Path] | None, option("Validation text; never trained on. Repeatable.", "Text")] = None,
    test: Annotated[list[Path] | None, option("Test text; never trained on. Repeatable.", "Text")] = None,
    exclude: Annotated[list[str] | None, option("Pattern of files to leave out, e.g. '*.md'.", "Text")] = None,
    level: Annotated[Level | None, option("What a token is.", "Text")] = None,
    boundary: Annotated[Boundary | None, option("What ends with <eos>.", "Text")] = None,
    vocabulary_size: Annotated[int | None, option("Commonest types kept, the special two included.", "Text")] = None,
    min_count: Annotated[int | None, option("Types seen less often are <unk>.", "Text")] = None,
    normalization: Annotated[Normalization | None, option("speech: lower case, no punctuation.", "Text")] = None,
    unwrap: Annotated[bool | None, option("Join lines wrapped at a fixed width.", "Text")] = None,
    test_unwrap: Annotated[bool | None, option("Join them in the test text alone.", "Text")] = None,
    shuffle_lines: Annotated[bool | None, option("Each line stands alone, as in a list of names.", "Text")] = None,
    valid_fraction: Annotated[float | None, option("Held out for validation if none is given.", "Text")] = None,
    test_fraction: Annotated[float | None, option("Held out for test if none is given.", "Text")] = None,
    valid_part: Annotated[Part | None, option("Which end of the text that is.", "Text")] = None,
    description: Annotated[str | None, option("A sentence on the text, for the model card.", "Text")] = None,
    licence: Annotated[str | None, option("The text's licence, for the model card.", "Text")] = None,
    cell: Annotated[Cell | None, option("Kind of recurrent layer.", "Network")] = None,
    embedding_size: Annotated[int | None, option("Width of a token's vector.", "Network")] = None,
    hidden_sizes: Annotated[str | None, option("Width of each layer, e.g. 512,512.", "Network")] = None,
    projection_size: Annotated[int | None, option("Width before the output matrix.", "Network")] = None,
    tied: Annotated[bool | None, option("Output matrix = embedding matrix.", "Network")] = None,
    one_hot: Annotated[bool | None, option("Inputs are one-hot vectors, not learned ones.", "Network")] = None,
    output_layers: Annotated[str | None, option("Widths of tanh layers before the output.", "Network")] = None,
    steps: Annotated[int | None, option("Optimizer steps.", "Training")] = None,
    max_minutes: Annotated[float | None, option("Fit the schedule into this much time.", "Training")] = None,
    batch_size: Annotated[int | None, option("Windows side by side.", "Training")] = None,
    bptt_length: Annotated[int | None, option("Tokens in a window, where the gradient stops.", "Training")] = None,
    truncation: Annotated[Truncation | None, option("Windows of one length, or of varying ones.", "Training")] = None,
    partition: Annotated[Partition | None, option("Carry the state on, or start windows anew.", "Training")] = None,
    reset_probability: Annotated[float | None, option("Share of windows from the zero state.", "Training")] = None,
    initialisation: Annotated[Initialisation | None, option("Of recurrent layers.", "Training")] = None,
    forget_bias: Annotated[float | None, option("Of an LSTM's forget gates, at first.", "Training")] = None,
    optimizer: Annotated[Optimizer | None, option("What makes steps of gradients.", "Training")] = None,
    learning_rate: Annotated[float | None, option("At the top of its schedule.", "Training")] = None,
    schedule: Annotated[Schedule | None, option("Of the learning rate.", "Training")] = None,
    warmup_steps: Annotated[int | None, option("Until the learning rate is there.", "Training")] = None,
    weight_decay: Annotated[float | None, option("AdamW's on matrices; SGD's on all.", "Training")] = None,
    clip_norm: Annotated[float | None, option("Longest gradient.", "Training")] = None,
    sampled_softmax: Annotated[
        int | None, option("Train on this many drawn types, not on the whole vocabulary; 0: on all.", "Training")
    ] = None,
    full_softmax_from: Annotated[
        float | None, option("Share of the schedule after which all types count.", "Training")
    ] = None,
    averaging: Annotated[Averaging | None, option("Of the weights; exported instead of them.", "Training")] = None,
    average_decay: Annotated[float | None, option("Of the exponential average, by step.", "Training")] = None,
    precision: Annotated[Precision | None, option("Of matrix products.", "Training")] = None,
    validate_every: Annotated[int | None, option("Steps between validations.", "Training")] = None,
    patience: Annotated[int | None, option("Validations without improvement before the end.", "Training")] = None,
    checkpoint_every: Annotated[int | None, option("Steps that a kill -9 loses at most.", "Training")] = None,
    seed: Annotated[int | None, option("Of weights, windows and dropout; 0 unless given.", "Training")] = None,
    dropout: Annotated[float | None, option("Share of non-recurrent connections cut.", _NOISE)] = None,
    input_dropout: Annotated[float | None, option("The same, before the first layer.", _NOISE)] = None,
    output_dropout: Annotated[float | None, option("The same, after the last layer.", _NOISE)] = None,
    locked: Annotated[bool | None, option("One mask for all tokens of a window.", _NOISE)] = None,
    word_dropout: Annotated[float | None, option("Share of word types left out.", _NOISE)] = None,
    dropconnect: Annotated[float | None, option("Share of recurrent weights cut.", _NOISE)] = None,
    activation_l2: Annotated[float | None, option("Penalty on activations (AR).", _NOISE)] = None,
    temporal_l2: Annotated[float | None, option("Penalty on their changes (TAR).", _NOISE)] = None,
    storage: Annotated[NumberType | None, option("How the checkpoint's weights are stored.", "Export")] = None,
) -> None:
    """Train a model and export it. What is not given is chosen from the text.

    Ctrl-C stops after saving; `resume` continues as if nothing had happened, also after a crash.
    """
    tables: dict[str, dict[str, Any]] = {
        "corpus": {
            "train": _names(texts), "valid": _names(valid), "test": _names(test), "exclude": exclude or None,
            "level": level, "boundary": boundary, "vocabulary_size": vocabulary_size, "min_count": min_count,
            "normalization": normalization,
            "unwrap": unwrap, "test_unwrap": test_unwrap, "shuffle_lines": shuffle_lines,
            "valid_fraction": valid_fraction, "test_fraction": test_fraction,
            "valid_part": valid_part,
            "description": description, "licence": licence,
        },
        "network": {
            "cell": cell, "embedding_size": embedding_size, "hidden_sizes": _widths("--hidden-sizes", hidden_sizes),
            "projection_size": projection_size, "tied": tied, "one_hot": one_hot,
            "output_layers": _widths("--output-layers", output_layers),
        },
        "training": {
            "steps": steps, "max_minutes": max_minutes, "batch_size": batch_size, "bptt_length": bptt_length,
            "truncation": truncation, "partition": partition, "reset_probability": reset_probability,
            "initialisation": initialisation, "forget_bias": forget_bias, "optimizer": optimizer,
            "learning_rate": learning_rate, "schedule": schedule,
            "warmup_steps": warmup_steps, "weight_decay": weight_decay, "clip_norm": clip_norm,
            "sampled_softmax": sampled_softmax, "full_softmax_from": full_softmax_from,
            "averaging": averaging, "average_decay": average_decay, "precision": precision,
            "validate_every": validate_every, "patience": patience, "checkpoint_every": checkpoint_every, "seed": seed,
            "dropout": dropout, "input_dropout": input_dropout, "output_dropout": output_dropout, "locked": locked,
            "word_dropout": word_dropout, "dropconnect": dropconnect, "activation_l2": activation_l2,
            "temporal_l2": temporal_l2,
        },
        "export": {"storage": storage},
    }  # fmt: skip
    given = {name: {key: value for key, value in table.items() if value is not None} for name, table in tables.items()}
    asked = override(read_recipe(recipe) if recipe else Recipe(), given)
    out = out or (Path("checkpoints") / recipe.stem if recipe else None)
    if out is None:
        raise RecipeError("--out is missing: where the model goes, e.g. --out checkpoints/book")
    directory = run or Path("runs") / out.name
    _use_machine(threads, device)
    check_replaceable(out)
    check_writable([out.parent, directory.parent])
    with _group(device) as group:
        if group.is_first:
            command = "python -m training " + shlex.join(sys.argv[1:])
            start = load_checkpoint(start_from) if start_from else None
            progress = partial(counting, console)
            run_ = prepare_run(directory, asked, data or Path(), command, out, force, device, start, progress)
            print_plan(console, run_)
        group.wait()
        _train_and_export(open_run(directory), out, group, resumed=False, tensorboard=tensorboard)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/book.")],
    out: Annotated[Path | None, typer.Option(help="The checkpoint to write; that of `train` unless given.")] = None,
    tensorboard: TensorBoard = False,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; that of `train` unless given.")] = None,
) -> None:
    """Continue an interrupted run from its last save, and export it."""
    opened = open_run(run)
    device = device or opened.config.device
    out = out or Path(opened.config.out or Path("checkpoints") / run.resolve().name)
    _use_machine(threads, device)
    check_replaceable(out)
    check_writable([out.parent, run])
    with _group(device) as group:
        _train_and_export(opened, out, group, resumed=True, tensorboard=tensorboard)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/book; the run may still be going on.")],
    out: Annotated[Path | None, typer.Option(help="The checkpoint to write; that of `train` unless given.")] = None,
    storage: StorageOption = None,
    command: Annotated[str | None, typer.Option(help="What the card gives as the command that made it.")] = None,
    threads: Threads = None,
) -> None:
    """Write the best weights of a run as a checkpoint to serve, evaluated as they are stored."""
    opened = open_run(run)
    out = out or Path(opened.config.out or Path("checkpoints") / run.resolve().name)
    _use_machine(threads)
    check_replaceable(out)
    check_writable([out.parent])
    _export(opened, out, storage, command)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint, e.g. checkpoints/book.")],
    texts: Annotated[list[Path], typer.Argument(help="Text files, or folders of them.")],
    reset: Annotated[
        Reset, typer.Option(help="never: each file is one stream. line: each line by itself, as POST /score does.")
    ] = "never",
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Join lines wrapped at a fixed width.")] = False,
    as_json: Json = False,
    card: Annotated[str | None, typer.Option(help="Write the figures into the model card under this label.")] = None,
    threads: Threads = None,
) -> None:
    """Perplexity and bits per character of a text, exactly, in float32."""
    _use_machine(threads)
    loaded = load_checkpoint(checkpoint)
    contents = [read_text(file, unwrap) for file in find_files(texts)]
    total = sum(len(text) for text in contents) if loaded.tokenizer.level == "char" else None
    if reset == "line":
        total = total and sum(len(line) + 1 for text in contents for line in lines_of(text))
    with counting(errors, "evaluating", total) as advance:
        figures = evaluate_texts(loaded.model, loaded.tokenizer, contents, reset, advance, loaded.speller)
    if as_json:
        typer.echo(json.dumps({"checkpoint": loaded.name, "reset": reset} | figures.to_json()))
    else:
        print_figures(console, {f"{loaded.name}, reset {reset}": figures.to_json()})
    if card is not None:
        add_figures(checkpoint, card, figures, reset)


@app.command()
def ngram(
    checkpoint: Annotated[Path, typer.Argument(help="Whose tokens are counted and predicted, e.g. checkpoints/book.")],
    texts: Annotated[list[Path], typer.Argument(help="Held-out text files, or folders of them.")],
    train: Annotated[list[Path], typer.Option(help="Text to count in; repeatable. Held-out files in it are left out.")],
    exclude: Excluded = None,
    order: Annotated[int, typer.Option(min=1, max=MAX_ORDER, help="Tokens of an n-gram.")] = MAX_ORDER,
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Join wrapped lines of the held-out text.")] = False,
    train_unwrap: Annotated[bool, typer.Option("--train-unwrap", help="Those of the text to count in.")] = False,
    as_json: Json = False,
    card: Annotated[str | None, typer.Option(help="Write the figure into the model card's row of this label.")] = None,
) -> None:
    """What counting alone reaches on the tokens of a checkpoint: interpolated, modified Kneser-Ney smoothing."""
    loaded = load_checkpoint(checkpoint)
    held_out = find_files(texts)
    known = {file.resolve() for file in held_out}
    sources = [file for file in _included(train, exclude) if file.resolve() not in known]
    documents = [unwrapped(whole_file(file)) if train_unwrap else whole_file(file) for file in sources]
    with counting(errors, "tokenizing", sum(map(size, documents))) as advance:
        counted = tokenize(documents, loaded.tokenizer, on_text=advance).ids
    with errors.status("counting"):
        model = KneserNey(counted.numpy(), len(loaded.tokenizer), loaded.tokenizer.eos_id, order)
        held = [unwrapped(whole_file(file)) if unwrap else whole_file(file) for file in held_out]
        split = tokenize(held, loaded.tokenizer)
        logprob = sum(float(model.logprobs(ids.numpy()).sum()) for ids in split.documents())
    perplexity = math.exp(-logprob / len(split.ids))
    found = {"order": order, "train_tokens": len(counted), "tokens": len(split.ids), "perplexity": perplexity}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        console.print(
            f"{order}-gram of {len(counted):,} tokens: perplexity {perplexity:.2f} per token "
            f"over {len(split.ids):,} tokens",
            highlight=False,
        )
    if card is not None:
        add_ngram(checkpoint, card, order, perplexity)


@app.command()
def speller(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of level word or split, e.g. checkpoints/book.")],
    texts: Annotated[list[Path], typer.Argument(help="The training text: what its vocabulary left out is learned.")],
    valid: Annotated[list[Path], typer.Option(help="Held-out text, which weighs known rare words against new ones.")],
    exclude: Excluded = None,
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Join lines wrapped at a fixed width.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    threads: Threads = None,
) -> None:
    """Teach a checkpoint that has no speller how words outside its vocabulary are written; `train` does so by itself.

    Then every string has a probability (`logprob_open`), and /generate and /next can write words they never saw.
    """
    _use_machine(threads)
    loaded = load_checkpoint(checkpoint)
    if loaded.tokenizer.level not in ("word", "split"):
        raise RecipeError(f"{checkpoint}: level {loaded.tokenizer.level} has no words to spell")

    def unknown_words(files: list[Path], name: str) -> dict[str, int]:
        documents = [unwrapped(whole_file(file)) if unwrap else whole_file(file) for file in files]
        with counting(console, f"unknown words of the {name} text", sum(map(size, documents))) as advance:
            return tokenize(documents, loaded.tokenizer, on_text=advance).unknown

    held_out = unknown_words(find_files(valid), "held-out")
    kept_apart = {file.resolve() for file in find_files(valid)}
    learned = [file for file in _included(texts, exclude) if file.resolve() not in kept_apart]
    unknown = unknown_words(learned, "training")
    console.print(f"{len(unknown):,} types are outside the vocabulary", highlight=False)
    with stepping(console, "learning to spell") as on_step:
        taught = train_speller(unknown, held_out, seed, on_step)
    add_speller(checkpoint, taught)
    describe_speller(checkpoint)
    words, characters = sum(held_out.values()), sum(count * (len(word) + 1) for word, count in held_out.items())
    logprob = sum(
        count * value for count, value in zip(held_out.values(), taught.logprobs(list(held_out)), strict=True)
    )
    console.print(
        f"{words:,} unknown words in the held-out text: "
        f"{-logprob / math.log(2) / max(characters, 1):.3f} bits per character, ends included; "
        f"{taught.share:.0%} of the model's probability is for the {len(taught.lexicon or ()):,} words of its lexicon",
        highlight=False,
    )
    console.print("it would write:" + "".join(f" {taught.spell(0, 0, i).strip()}" for i in range(20)), highlight=False)
    console.print(f"wrote {checkpoint / SPELLER}", highlight=False, soft_wrap=True)
    if loaded.about.get("figures"):
        console.print(
            f"what it reaches goes into the card by  python -m training evaluate {shlex.quote(str(checkpoint))} TEXT "
            "--card LABEL",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def stats(
    texts: Annotated[list[Path], typer.Argument(help="Text files, or folders of them.")],
    level: Annotated[Level | None, typer.Option(help="What a token is; words where there are spaces.")] = None,
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Join lines wrapped at a fixed width.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the Zipf plot to this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Tokens, types, unknown words by vocabulary size, and Zipf's law. Look here before you train."""
    files = find_files(texts)
    contents = [read_text(file, unwrap) for file in files]
    shape = describe([unwrapped(whole_file(file)) if unwrap else whole_file(file) for file in files])  # as `train` does
    level = level or ("word" if shape.spaces > 0.05 else "char")
    statistics, frequencies = measure(contents, level)
    if as_json:
        typer.echo(json.dumps(statistics.to_json(), ensure_ascii=False))
    else:
        print_statistics(console, statistics)
        chosen = choose_corpus(CorpusConfig(), shape)
        layout = ", wrapped lines joined" if chosen.unwrap else ", lines shuffled" if chosen.shuffle_lines else ""
        console.print(
            f"`train` would choose level {chosen.level}, boundary {chosen.boundary}{layout}.", highlight=False
        )
    if plot is not None:
        plot_zipf(frequencies, statistics.zipf_exponent, statistics.zipf_constant, plot)
        errors.print(f"wrote {plot}", highlight=False)


@app.command("gradient-flow")
def gradient_flow(
    texts: Annotated[list[Path], typer.Argument(help="Text files, or folders of them, read by characters.")],
    out: Annotated[Path, typer.Option(help="Where the figures go; the picture beside them.")] = Path(
        "gradient-flow.json"
    ),
    cells: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(KINDS),
    hidden_size: Annotated[int, typer.Option(min=1, help="Units of the layer.")] = 128,
    distance: Annotated[int, typer.Option(min=3, help="Tokens to look back.")] = 100,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps of each network; 0: look at the first alone.")
    ] = 300,
    initialisation: Annotated[Initialisation, typer.Option(help="Of the layer's matrices.")] = "uniform",
    forget_bias: Annotated[float, typer.Option(help="Of the LSTM's forget gate.")] = 3.0,
    threads: Threads = None,
) -> None:
    """Why gradients vanish or explode: what the loss of a token feels of the state so many tokens before it."""
    _use_machine(threads)
    kinds = [kind for kind in KINDS if kind in cells.split(",")]
    if len(kinds) != len(cells.split(",")):
        raise RecipeError(f"--cells: {cells!r}: known are {', '.join(KINDS)}")
    contents = [read_text(file) for file in find_files(texts)]
    tokenizer = Tokenizer.train(contents, "char", "document")
    ids = tokenize(contents, tokenizer).ids
    if len(ids) < 10 * distance:
        raise CorpusError(f"{len(ids)} characters are too few to look back {distance}; give some thousand")
    with stepping(errors, "training") as on_step:
        flows = measure_flows(
            ids, len(tokenizer), kinds, hidden_size, distance, steps, initialisation, forget_bias, on_step
        )
    rows = [flow.to_json() for flow in flows]
    out.write_text(json.dumps({"hidden_size": hidden_size, "flows": rows}, indent=1) + "\n", encoding="utf-8")
    print_flows(console, rows)
    picture = out.with_suffix(".png")
    plot_flows(rows, picture)
    console.print(f"wrote {out} and {picture}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, e.g. runs/*.")],
    plot: Annotated[Path | None, typer.Option(help="Draw their validation curves into this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Runs side by side, best first."""
    summaries = [summarise(run) for run in runs]
    if as_json:
        typer.echo(json.dumps([summary.to_json() for summary in summaries]))
    else:
        print_comparison(console, summaries)
    if plot is not None:
        names = [str(run) if len({s.name for s in summaries}) < len(summaries) else run.resolve().name for run in runs]
        curves_of = [[(minutes, nats) for _, minutes, nats in s.valid] for s in summaries]
        plot_comparison(dict(zip(names, curves_of, strict=True)), plot)
        errors.print(f"wrote {plot}", highlight=False)


@app.command()
def average(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints of one network and one vocabulary.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
) -> None:
    """Write the mean of the weights of checkpoints, often better than the best of them."""
    averaged = average_checkpoints(checkpoints, out)
    console.print(f"wrote {out}, the mean of {len(checkpoints)} checkpoints ({averaged.storage})", highlight=False)


@app.command("lr-range")
def lr_range(
    texts: Texts = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file, as for `train`.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that the recipe's paths start from.")] = None,
    highest: Annotated[float, typer.Option(help="Learning rate at the end.")] = 1.0,
    steps: Annotated[int, typer.Option(min=20, help="Steps to get there.")] = 200,
    plot: Annotated[Path | None, typer.Option(help="Draw the loss against the rate into this PNG file.")] = None,
    threads: Threads = None,
) -> None:
    """Which learning rate to take: raise it until the loss flies off, and see where it falls fastest."""
    _use_machine(threads)
    given = {"corpus": {"train": _names(texts)}} if texts else {}
    test = {"schedule": "range", "steps": steps, "learning_rate": highest, "averaging": "none", "sampled_softmax": 0}
    asked = override(override(read_recipe(recipe) if recipe else Recipe(), given), {"training": test})
    asked = replace(asked, training={k: v for k, v in asked.training.items() if k != "max_minutes"})
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_run(Path(folder) / "range", asked, data or Path(), "lr-range", progress=partial(counting, errors))
        trainer = run.trainer()
        with stepping(errors, "raising the learning rate") as on_step:

            def note(report: Report) -> None:
                if report.loss_nats is not None:
                    reports.append(report)
                    on_step(report.step, steps)
                    if diverged(reports):
                        trainer.request_stop()

            with suppress(TrainingError):  # a gradient that is not finite is the end of the test
                trainer.run(note)
    suggested = suggest_rate(reports)
    if plot is not None:
        losses = [report.loss_nats or 0.0 for report in reports]
        plot_range([report.learning_rate for report in reports], losses, suggested, plot)
        errors.print(f"wrote {plot}", highlight=False)
    if suggested is None:
        raise TrainingError("the loss never fell: begin lower, with a smaller --highest")
    console.print(
        f"the loss falls fastest at {suggested:.1e}; it flew off, or all was tried, at {reports[-1].learning_rate:.1e}",
        highlight=False,
    )


@app.command()
def plot(run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/book.")]) -> None:
    """Draw the learning curve of a run, finished or not, into its directory."""
    console.print(f"wrote {plot_run(run)}", highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    try:
        app(arguments, prog_name="python -m training")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except (CorpusError, RecipeError, RunError, CheckpointError) as error:
        return _fail(str(error), 2)
    except ValueError as error:  # NetworkConfig's and TrainingConfig's, which name the field
        return _fail(str(error), 2)
    except (TrainingError, PlotError, OSError, MemoryError) as error:
        return _fail(str(error) or type(error).__name__, 1)
    return 0


def _fail(message: str, status: int) -> int:
    errors.print(f"[bold red]error:[/] {_escape(message)}", highlight=False, soft_wrap=True)
    return status


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


@contextmanager
def _group(device: str) -> Iterator[Group]:
    """The processes that `torchrun` started, or this one alone; the first one talks."""
    group = join_group(device)
    console.quiet = errors.quiet = not group.is_first
    try:
        yield group
    finally:
        group.leave()


def _train_and_export(run: Run, out: Path, group: Group, resumed: bool, tensorboard: bool) -> None:
    trainer = run.trainer(group)
    if resumed:
        trainer.load()
        console.print(f"continuing {run.directory} after step {trainer.position.step}", highlight=False, soft_wrap=True)
    with TrainingDisplay(console, run.config.training) as display, curves(run.directory, group, tensorboard) as draw:

        def report(report: Report) -> None:
            display.report(report)
            draw(report)
            if report.valid_nats is not None:
                display.show(sample_line(trainer.model, run.tokenizer, report.step))

        position = trainer.run(report)
    if not group.is_first:
        return
    try:
        plot_run(run.directory)
    except PlotError as error:  # a picture is not worth losing the export for
        errors.print(_escape(f"no learning curve: {error}"), highlight=False, soft_wrap=True)
    if position.stopped is None:
        errors.print(
            f"interrupted after step {position.step}; everything is saved. Continue with\n"
            f"  python -m training resume {shlex.quote(str(run.directory))}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED)
    console.print(f"{position.stopped}, after {position.step} steps and {clock(position.seconds)}", highlight=False)
    _export(run, out, None, None)


def _export(run: Run, out: Path, storage: NumberType | None, command: str | None) -> None:
    with stepping(console, "learning to spell") as on_step:
        trained_speller(run, on_step)
    with console.status("counting n-grams"):
        ngram_perplexities(run)
    total = sum(len(split.ids) for name, split in run.splits.items() if name != "train")
    with counting(console, "evaluating", total) as advance:
        about = export_run(run, out, storage, command, advance)
    print_figures(console, about["figures"])
    console.print(f"wrote {out} ({about['weights_bytes'] / 1e6:.2f} MB of weights, {about['storage']})", soft_wrap=True)
    console.print("serve it:  make serve", highlight=False)


def _use_machine(threads: int | None, device: str = "cpu") -> None:
    torch.set_flush_denormal(True)  # tiny gradients would otherwise cost a hundred times as much
    if threads:
        torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(f"--device {device}: this torch sees no GPU; leave it out to train on the processor")


def _names(paths: list[Path] | None) -> list[str] | None:
    """Paths of the command line are relative to the current directory, those of a recipe to the data folder."""
    return [str(path.absolute()) for path in paths] if paths else None


def _included(paths: list[Path], exclude: list[str] | None) -> list[Path]:
    return [file for file in find_files(paths) if not any(file.match(pattern) for pattern in exclude or ())]


def _widths(option_name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(width) for width in text.split(",")]
    except ValueError:
        raise RecipeError(f"{option_name}: {text!r} is not a list of widths like 512,512") from None
