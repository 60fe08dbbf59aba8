"""A language model's best weights as a checkpoint to serve: quantised, evaluated as stored, and described on a card."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint.format import SPELLER, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint, update_about
from models.config import NumberType
from models.decoding.completion import GenerationParams
from models.decoding.reference import generate
from models.decoding.sampling import SamplingParams
from models.network import LanguageModel, set_weights
from models.text.tokenizer import Tokenizer
from models.words.speller import Speller
from training.card import render_card
from training.data.tokens import TokenizedText
from training.estimate import most_speller_steps
from training.evaluate import Reset, evaluate_documents, evaluate_lines, lines_of, spelled
from training.evaluation_figures import Totals, current
from training.persistence import BEST, Position, read_best, read_position
from training.progress import Advance, Progress, no_progress
from training.run import SPLITS, START_SPELLER, Run, RunError, command_line, load_speller, save_speller
from training.sealed import DamagedError, read_json, write_json
from training.speller import adapted_speller, can_learn_spelling, train_speller
from training.studies.ngram import MAX_ORDER, KneserNey

NGRAM = "ngram.json"

SAMPLE_TEMPERATURE = 0.8

NGRAM_TOKENS = 16_000_000
"""Tokens that are counted at most, so that counting never takes more than 4 GiB of memory."""


def best_model(run: Run) -> LanguageModel:
    """The network with the weights of the best validation. Raises `RunError` before the first one, and where they are
    damaged."""
    path, resume = run.directory / BEST, command_line("resume", run.directory)
    try:
        weights = read_best(run.directory)
    except FileNotFoundError:
        if read_position(run.directory).best_step is not None:
            raise RunError(f"{path}: is missing. What can be done says  {resume}") from None
        raise RunError(
            f"{run.directory}: nothing to export before the first validation "
            f"(step {run.config.training.validate_every}); continue with  {resume}"
        ) from None
    except DamagedError as error:
        raise RunError(f"{error}. It is mended, or what can be done is said, by  {resume}") from None
    model = LanguageModel(run.config.network)
    set_weights(model, weights)
    return model.eval().requires_grad_(False)


def run_speller(run: Run, progress: Progress = no_progress) -> Speller | None:
    """The speller of the words that the run's vocabulary left out. It is trained, or adapted from the checkpoint that
    the run began with, if it is not in the run directory yet; None where the words are too few to learn from."""
    path = run.directory / SPELLER
    with _removable():
        speller = load_speller(path)
    if speller:
        return speller
    unknown, held_out = run.splits["train"].unknown, run.splits["validation"].unknown
    start = load_speller(run.directory / START_SPELLER)
    if start:
        speller = adapted_speller(start, unknown, held_out)
    elif can_learn_spelling(unknown):
        with progress("learning to spell", None) as on_step:
            training = run.config.training
            most_steps = most_speller_steps(training.max_minutes)
            speller = train_speller(unknown, held_out, training.seed, on_step, most_steps)
    else:
        return None
    save_speller(speller, path)
    return speller


def ngram_perplexities(run: Run, progress: Progress = no_progress) -> dict[str, float]:
    """The perplexity of an n-gram model (training/studies/ngram.py) by held-out split. It is computed if it is not in
    the run directory yet."""
    path = run.directory / NGRAM
    if not path.exists():
        with progress("counting n-grams", None):
            counted = run.splits["train"].ids[:NGRAM_TOKENS].numpy()
            model = KneserNey(counted, len(run.tokenizer), run.tokenizer.eos_id)
            found = {
                SPLITS[name]: float(np.exp(-model.logprobs(text.ids.numpy()).mean()))
                for name, text in run.held_out.items()
            }
        write_json(path, found)
    with _removable():
        perplexities: dict[str, float] = read_json(path)
    return {name: perplexities[stem] for name, stem in SPLITS.items() if stem in perplexities}


@contextmanager
def _removable() -> Iterator[None]:
    """A file that an export makes where it is not there yet: where it is damaged, `RunError` says to remove it."""
    try:
        yield
    except DamagedError as error:
        raise RunError(f"{error}. Remove it: the next export makes it anew") from None


def export_run(
    run: Run,
    out: Path,
    storage: NumberType | None = None,
    command: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Writes the checkpoint `out`, replacing an older one there; returns what its card says.

    storage, command: None takes the run's own.
    """
    storage = storage or run.config.storage
    model, tokenizer = best_model(run), run.tokenizer
    speller = run_speller(run, progress)
    ngrams = ngram_perplexities(run, progress)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / out.name
        save_checkpoint(directory, model, tokenizer, storage, speller=speller)
        stored = load_checkpoint(directory)
        weights_bytes = (directory / WEIGHTS).stat().st_size
    figures, unk_spelling = {}, None
    with progress("evaluating", sum(len(text.ids) for text in run.held_out.values())) as advance:
        for name, text in run.held_out.items():
            # Items of a list were trained on apart, from the zero state, and are judged so; n-grams start anew too.
            reset: Reset = "line" if run.config.corpus.shuffle_lines else "never"
            totals = spelled(_evaluated(stored.model, text, tokenizer, reset, advance), text, stored.speller)
            unk_spelling = totals.unk_spelling if unk_spelling is None else unk_spelling
            ngram = {"ngram_order": MAX_ORDER, "ngram_perplexity": ngrams[name]}
            figures[name] = figures_row(totals, reset) | ngram
    about = describe_run(run, stored) | {
        "name": out.name,
        "command": command or run.config.command,
        "storage": storage,
        "weights_bytes": weights_bytes,
        "figures": figures,
        "samples": make_samples(stored),
    }
    save_checkpoint(out, model, tokenizer, storage, about, render_card(about), speller, unk_spelling=unk_spelling)
    return about


def _evaluated(
    model: LanguageModel, text: TokenizedText, tokenizer: Tokenizer, reset: Reset, advance: Advance
) -> Totals:
    if reset == "never":
        return evaluate_documents(model, text, tokenizer, advance)
    lines = [line for document in text.documents() for line in lines_of(tokenizer.decode(document.tolist()))]
    totals = evaluate_lines(model, tokenizer, lines, advance)
    return replace(totals, characters=text.characters)


def describe_run(run: Run, stored: Checkpoint) -> dict[str, Any]:
    """What a card says of the text, the network and the training."""
    config = run.config
    position = read_position(run.directory)
    tokens_per_step = config.training.batch_size * config.training.bptt_length
    return {
        "description": config.description,
        "licence": config.licence,
        "created": config.created,
        "sources": config.sources,
        "corpus": {SPLITS[name]: _corpus_row(text) for name, text in run.splits.items() if len(text.ids)},
        "level": stored.tokenizer.level,
        "boundary": stored.tokenizer.boundary,
        "vocabulary": len(stored.tokenizer),
        "parameters": stored.model.num_parameters(),
        **_speller_facts(stored.speller),
        "network": config.network.to_json(),
        "training": asdict(config.training),
        "corpus_options": asdict(config.corpus),
        "hardware": config.hardware,
        "start": config.start,
    } | _training_facts(position, tokens_per_step, len(run.splits["train"].ids))


def _speller_facts(speller: Speller | None) -> dict[str, int | None]:
    return {
        "speller_parameters": speller.config.num_parameters if speller else None,
        "lexicon": len(speller.lexicon) if speller and speller.lexicon else None,
    }


def describe_speller(directory: Path) -> None:
    """Describes a new speller in a checkpoint's card, and removes the figure that the old one reached."""
    checkpoint = load_checkpoint(directory)
    if "corpus" not in checkpoint.about:
        return
    rows = checkpoint.about.get("figures", {})
    figures = {label: current(row) | {"bits_per_character": None} for label, row in rows.items()}
    about = checkpoint.about | _speller_facts(checkpoint.speller) | {"figures": figures}
    update_about(directory, about, render_card(about))


def _training_facts(position: Position, tokens_per_step: int, train_tokens: int) -> dict[str, Any]:
    seen = position.step * tokens_per_step
    return {
        "steps": position.step,
        "tokens_seen": seen,
        "epochs": seen / train_tokens,
        "best_step": position.best_step or position.step,
        "minutes": position.seconds / 60,
    }


def _corpus_row(text: TokenizedText) -> dict[str, Any]:
    return {
        "documents": len(text.starts),
        "characters": text.characters,
        "words": text.words,
        "tokens": len(text.ids),
        "oov_rate": text.oov / len(text.ids),
    }


def figures_row(totals: Totals, reset: Reset) -> dict[str, Any]:
    """A row of the card's table."""
    return {"reset": reset} | totals.to_json()


def add_figures(directory: Path, label: str, totals: Totals, reset: Reset) -> None:
    """Puts a row into a checkpoint's card, in place of a row with the same label; weights stay as they are."""
    about = load_checkpoint(directory).about
    if "corpus" not in about:
        raise RunError(f"{directory}: has no card to write into (it was not written by the export of a run)")
    row, old = figures_row(totals, reset), about.get("figures", {}).get(label, {})
    if (old.get("tokens"), old.get("reset")) == (row["tokens"], row["reset"]):
        row = current(old) | row  # the same text: the figure of its n-grams still holds
    about = about | {"figures": about.get("figures", {}) | {label: row}}
    update_about(directory, about, render_card(about))


def add_ngram(directory: Path, label: str, order: int, perplexity: float) -> None:
    """Puts the perplexity of n-grams into a row of a checkpoint's card. Raises `RunError` where it has no such row."""
    about = load_checkpoint(directory).about
    figures = about.get("figures", {})
    if label not in figures:
        raise RunError(f"{directory}: its card has no row {label!r}; it has {', '.join(figures) or 'none'}")
    row = figures[label] | {"ngram_order": order, "ngram_perplexity": perplexity}
    about = about | {"figures": figures | {label: row}}
    update_about(directory, about, render_card(about))


def beginning(tokenizer: Tokenizer) -> str:
    """The prompt after which something begins. A document model has seen few beginnings of documents, often a single
    one, and goes on from anywhere, inside a word too, after an empty prompt: two line ends end what was before, if
    only a line."""
    return "\n\n" if tokenizer.boundary == "document" else ""


def make_samples(stored: Checkpoint) -> list[dict[str, Any]]:
    """A few texts, each from the beginning of something: whole lines or paragraphs; of a document model, what follows
    a line end."""
    short, prompt = stored.tokenizer.boundary != "document", beginning(stored.tokenizer)
    samples = []
    for seed in range(1, 6 if short else 3):
        params = GenerationParams(
            max_tokens=stored.tokenizer.rules.card_tokens,
            min_tokens=1,
            seed=seed,
            ignore_eos=not short,
            sampling=SamplingParams(temperature=SAMPLE_TEMPERATURE),
        )
        text, _ = generate(stored.model, stored.tokenizer, prompt, params)
        samples.append({"prompt": prompt, "text": text, "seed": seed, "temperature": SAMPLE_TEMPERATURE})
    return samples


def sample_line(model: LanguageModel, tokenizer: Tokenizer, seed: int) -> str:
    """What the network writes now, on one line. It takes nothing from torch's generator."""
    params = GenerationParams(
        max_tokens=tokenizer.rules.sample_tokens,
        seed=seed,
        ignore_eos=True,
        sampling=SamplingParams(temperature=SAMPLE_TEMPERATURE),
    )
    text, _ = generate(model, tokenizer, beginning(tokenizer), params)
    return " ".join(text.split())
