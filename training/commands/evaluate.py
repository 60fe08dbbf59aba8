"""What a checkpoint reaches on a text, what n-grams reach on it, and a speller for a checkpoint without one."""

import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from models.checkpoint.format import SPELLER, add_speller, load_checkpoint
from models.documents.readers import find_files, read_documents, read_texts
from models.documents.text import size
from training.commands.common import (
    Exclude,
    Files,
    Json,
    Threads,
    Unwrap,
    console,
    errors,
    say,
    say_json,
    show_progress,
    show_progress_apart,
    use_machine,
)
from training.data.corpus import included
from training.data.tokens import tokenize
from training.evaluate import Reset, evaluate_texts, lines_of
from training.evaluation_figures import shown_at
from training.export import add_figures, add_ngram, describe_speller
from training.recipe import RecipeError
from training.speller import train_speller
from training.studies.ngram import MAX_ORDER, KneserNey
from training.tables import print_figures

SAMPLE_WORDS = 20
"""Words that a new speller is asked for."""


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint, e.g. checkpoints/book.")],
    texts: Files,
    reset: Annotated[
        Reset, typer.Option(help="never: each file is one stream. line: each line by itself, as POST /score does.")
    ] = "never",
    unwrap: Unwrap = False,
    as_json: Json = False,
    card: Annotated[str | None, typer.Option(help="Write the figures into the model card under this label.")] = None,
    threads: Threads = None,
) -> None:
    """Perplexity and bits per character of a text, exactly, in float32."""
    use_machine(threads)
    loaded = load_checkpoint(checkpoint)
    contents = read_texts(find_files(texts), unwrap)
    total = sum(len(text) for text in contents) if loaded.tokenizer.rules.is_characters else None
    if reset == "line":
        total = total and sum(len(line) + 1 for text in contents for line in lines_of(text))
    with show_progress_apart("evaluating", total) as advance:
        totals = evaluate_texts(loaded.model, loaded.tokenizer, contents, reset, advance, loaded.speller)
    if as_json:
        say_json({"checkpoint": loaded.name, "reset": reset} | totals.to_json())
    else:
        rows = {f"{loaded.name}, reset {reset}": totals.to_json()}
        print_figures(console, rows, shown_at(loaded.tokenizer.level))
    if card is not None:
        add_figures(checkpoint, card, totals, reset)


def ngram(
    checkpoint: Annotated[Path, typer.Argument(help="Its tokens are counted and predicted, e.g. checkpoints/book.")],
    texts: Annotated[list[Path], typer.Argument(help="Held-out text files, or folders of them.")],
    train: Annotated[list[Path], typer.Option(help="Text to count in, without the held-out files. Repeatable.")],
    exclude: Exclude = None,
    order: Annotated[int, typer.Option(min=1, max=MAX_ORDER, help="Tokens of an n-gram.")] = MAX_ORDER,
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Join wrapped lines of the held-out text.")] = False,
    train_unwrap: Annotated[
        bool, typer.Option("--train-unwrap", help="Join wrapped lines of the text to count in.")
    ] = False,
    as_json: Json = False,
    card: Annotated[
        str | None, typer.Option(help="Write the figure into the row of the model card with this label.")
    ] = None,
) -> None:
    """The perplexity of an n-gram model on the tokens of a checkpoint: interpolated, modified Kneser-Ney smoothing."""
    loaded = load_checkpoint(checkpoint)
    held_out_files = find_files(texts)
    documents = read_documents(included(train, exclude, held_out_files), train_unwrap)
    with show_progress_apart("tokenizing", sum(map(size, documents))) as advance:
        counted = tokenize(documents, loaded.tokenizer, on_text=advance).ids
    with errors.status("counting"):
        model = KneserNey(counted.numpy(), len(loaded.tokenizer), loaded.tokenizer.eos_id, order)
        held_out = tokenize(read_documents(held_out_files, unwrap), loaded.tokenizer)
        logprob = sum(float(model.logprobs(ids.numpy()).sum()) for ids in held_out.documents())
    tokens = len(held_out.ids)
    perplexity = math.exp(-logprob / tokens)
    if as_json:
        say_json({"order": order, "train_tokens": len(counted), "tokens": tokens, "perplexity": perplexity})
    else:
        say(f"{order}-gram of {len(counted):,} tokens: perplexity {perplexity:.2f} per token over {tokens:,} tokens")
    if card is not None:
        add_ngram(checkpoint, card, order, perplexity)


def speller(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of level word or split, e.g. checkpoints/book.")],
    texts: Annotated[
        list[Path], typer.Argument(help="The training text: the speller learns the words that the vocabulary left out.")
    ],
    valid: Annotated[list[Path], typer.Option(help="Validation text, which weighs known rare words against new ones.")],
    exclude: Exclude = None,
    unwrap: Unwrap = False,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    threads: Threads = None,
) -> None:
    """Teach a checkpoint that has no speller how words outside its vocabulary are written; `train` does so by itself.

    Then every string has a probability (`logprob_open`), and /generate and /next can write words they never saw.
    """
    use_machine(threads)
    loaded = load_checkpoint(checkpoint)
    if not loaded.tokenizer.rules.has_words:
        raise RecipeError(f"{checkpoint}: level {loaded.tokenizer.level} has no words to spell")

    def unknown_words(files: list[Path], name: str) -> dict[str, int]:
        documents = read_documents(files, unwrap)
        with show_progress(f"unknown words of the {name} text", sum(map(size, documents))) as advance:
            return tokenize(documents, loaded.tokenizer, on_text=advance).unknown

    held_out_files = find_files(valid)
    held_out = unknown_words(held_out_files, "validation")
    unknown = unknown_words(included(texts, exclude, held_out_files), "training")
    say(f"{len(unknown):,} types are outside the vocabulary")
    with show_progress("learning to spell", None) as on_step:
        taught = train_speller(unknown, held_out, seed, on_step)
    add_speller(checkpoint, taught)
    describe_speller(checkpoint)
    words, characters = sum(held_out.values()), sum(count * (len(word) + 1) for word, count in held_out.items())
    logprobs = zip(held_out.values(), taught.logprobs(list(held_out)), strict=True)
    logprob = sum(count * value for count, value in logprobs)
    say(
        f"{words:,} unknown words in the validation text: "
        f"{-logprob / math.log(2) / max(characters, 1):.3f} bits per character, ends included; "
        f"{taught.share:.0%} of the model's probability is for the {len(taught.lexicon or ()):,} words of its lexicon"
    )
    say("it would write:" + "".join(f" {taught.spell(0, 0, i).strip()}" for i in range(SAMPLE_WORDS)))
    say(f"wrote {checkpoint / SPELLER}")
    if loaded.about.get("figures"):
        say(
            f"to put what it reaches into the card:  python -m training evaluate {shlex.quote(str(checkpoint))} TEXT "
            "--card LABEL"
        )
