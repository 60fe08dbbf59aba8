"""A run's best weights as a checkpoint to serve: quantised, evaluated as stored, and described on a card."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from models.checkpoint.format import SPELLER, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint, update_about
from models.config import NumberType
from models.decoding.completion import GenerationParams
from models.decoding.reference import generate
from models.decoding.sampling import SamplingParams
from models.network import LanguageModel
from models.words.speller import Speller
from training.card import render_card
from training.data.tokens import Split
from training.evaluate import Figures, Reset, evaluate_split, ignore, spelled
from training.run import START_SPELLER, Run, RunError, load_speller, replace_file, save_speller
from training.speller import adapted_speller, can_learn_spelling, train_speller
from training.studies.ngram import MAX_ORDER, KneserNey
from training.trainer import Position, read_position

BEST, NGRAM = "best.safetensors", "ngram.json"

SAMPLE_TEMPERATURE = 0.8

NGRAM_TOKENS = 16_000_000
"""Counted at most, so that no training takes more than 4 GiB of memory for that."""


def best_model(run: Run) -> LanguageModel:
    """The network with the weights of the best validation. Raises `RunError` before the first one."""
    path = run.directory / BEST
    if not path.is_file():
        raise RunError(
            f"{run.directory}: nothing to export before the first validation "
            f"(step {run.config.training.validate_every}); continue with  python -m training resume {run.directory}"
        )
    model = LanguageModel(run.config.network)
    weights = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval().requires_grad_(False)


def trained_speller(run: Run, on_step: Callable[[int, int], None] | None = None) -> Speller | None:
    """The speller of the words that the run's vocabulary left out, trained when it is first asked for, or that of the
    checkpoint that it goes on from, with words of its own; None where they are too few to learn from."""
    path = run.directory / SPELLER
    speller = load_speller(path)
    if speller:
        return speller
    unknown, held_out = run.splits["train"].unknown, run.splits["valid"].unknown
    start = load_speller(run.directory / START_SPELLER)
    if start:
        speller = adapted_speller(start, unknown, held_out)
    elif can_learn_spelling(unknown):
        speller = train_speller(unknown, held_out, run.config.training.seed, on_step)
    else:
        return None
    save_speller(speller, path)
    return speller


def ngram_perplexities(run: Run) -> dict[str, float]:
    """By held-out split: perplexity of n-grams alone (training/studies/ngram.py), computed when first asked for."""
    path = run.directory / NGRAM
    if not path.is_file():
        size, eos_id = len(run.tokenizer), run.tokenizer.eos_id
        counted = KneserNey(run.splits["train"].ids[:NGRAM_TOKENS].numpy(), size, eos_id)
        held_out = {name: split for name, split in run.splits.items() if name != "train" and len(split.ids)}
        found = {name: float(np.exp(-counted.logprobs(split.ids.numpy()).mean())) for name, split in held_out.items()}
        replace_file(path, json.dumps(found).encode())
    perplexities: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return perplexities


def export_run(
    run: Run,
    out: Path,
    storage: NumberType | None = None,
    command: str | None = None,
    on_tokens: Callable[[int], None] = ignore,
) -> dict[str, Any]:
    """Write the checkpoint `out`, replacing an older one there; returns what its card tells.

    storage, command: None takes the run's own. on_tokens: told of the evaluation's progress.
    """
    storage = storage or run.config.storage
    model, tokenizer = best_model(run), run.tokenizer
    speller = trained_speller(run)
    counting = ngram_perplexities(run)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / out.name
        save_checkpoint(directory, model, tokenizer, storage, speller=speller)
        stored = load_checkpoint(directory)
        weights_bytes = (directory / WEIGHTS).stat().st_size
    splits = {name: split for name, split in run.splits.items() if name != "train" and len(split.ids)}
    figures = {
        {"valid": "validation", "test": "test"}[name]: figures_row(
            spelled(evaluate_split(stored.model, split, tokenizer, on_tokens), split, stored.speller),
            "never",
        )
        | {"ngram_order": MAX_ORDER, "ngram_perplexity": counting[name]}
        for name, split in splits.items()
    }
    about = describe_run(run, stored) | {
        "name": out.name,
        "command": command or run.config.command,
        "storage": storage,
        "weights_bytes": weights_bytes,
        "figures": figures,
        "samples": make_samples(stored),
    }
    save_checkpoint(out, model, tokenizer, storage, about, render_card(about), speller)
    return about


def describe_run(run: Run, stored: Checkpoint) -> dict[str, Any]:
    """What a card says of text, network and training."""
    config = run.config
    position = read_position(run.directory)
    tokens_per_step = config.training.batch_size * config.training.bptt_length
    return {
        "description": config.description,
        "licence": config.licence,
        "created": config.created,
        "sources": config.sources,
        "corpus": {
            name: _split_row(split)
            for name, split in ((name, run.splits[name]) for name in ("train", "valid", "test"))
            if len(split.ids)
        },
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
    } | _progress(position, tokens_per_step, len(run.splits["train"].ids))


def _speller_facts(speller: Speller | None) -> dict[str, int | None]:
    return {
        "speller_parameters": speller.config.num_parameters if speller else None,
        "lexicon": len(speller.lexicon) if speller and speller.lexicon else None,
    }


def describe_speller(directory: Path) -> None:
    """Tell of a new speller in a checkpoint's card, and no longer what the old one reached."""
    checkpoint = load_checkpoint(directory)
    if "corpus" not in checkpoint.about:
        return
    figures = checkpoint.about.get("figures", {})
    figures = {label: {**row, "open_bits_per_character": None} for label, row in figures.items()}
    about = checkpoint.about | _speller_facts(checkpoint.speller) | {"figures": figures}
    update_about(directory, about, render_card(about))


def _progress(position: Position, tokens_per_step: int, train_tokens: int) -> dict[str, Any]:
    seen = position.step * tokens_per_step
    return {
        "steps": position.step,
        "tokens_seen": seen,
        "epochs": seen / train_tokens,
        "best_step": position.best_step or position.step,
        "minutes": position.seconds / 60,
    }


def _split_row(split: Split) -> dict[str, Any]:
    return {
        "documents": len(split.starts),
        "characters": split.characters,
        "words": split.words,
        "tokens": len(split.ids),
        "oov_rate": split.oov / len(split.ids),
    }


def figures_row(figures: Figures, reset: Reset) -> dict[str, Any]:
    """A row of the card's table."""
    return {"reset": reset} | figures.to_json()


def add_figures(directory: Path, label: str, figures: Figures, reset: Reset) -> None:
    """Put a row into a checkpoint's card, over one of the same label; weights stay as they are."""
    about = load_checkpoint(directory).about
    if "corpus" not in about:
        raise RunError(f"{directory}: has no card to write into (it was not written by the export of a run)")
    row, old = figures_row(figures, reset), about.get("figures", {}).get(label, {})
    if (old.get("tokens"), old.get("reset")) == (row["tokens"], row["reset"]):
        row = old | row  # the same text: what counting reaches on it still stands
    about = about | {"figures": about.get("figures", {}) | {label: row}}
    update_about(directory, about, render_card(about))


def add_ngram(directory: Path, label: str, order: int, perplexity: float) -> None:
    """Put what counting reaches beside a row of a checkpoint's card. Raises `RunError` where there is no such row."""
    about = load_checkpoint(directory).about
    figures = about.get("figures", {})
    if label not in figures:
        raise RunError(f"{directory}: its card has no row {label!r}; it has {', '.join(figures) or 'none'}")
    row = figures[label] | {"ngram_order": order, "ngram_perplexity": perplexity}
    about = about | {"figures": figures | {label: row}}
    update_about(directory, about, render_card(about))


def make_samples(stored: Checkpoint) -> list[dict[str, Any]]:
    """A few texts: whole lines or paragraphs from an empty prompt, or what follows a line end in a document.

    A document model has seen few beginnings of documents, often one: from an empty prompt it starts anywhere.
    """
    short = stored.tokenizer.boundary != "document"
    prompt = "" if short else "\n"
    length = 300 if stored.tokenizer.level in ("char", "bpe") else 60
    samples = []
    for seed in range(1, 6 if short else 3):
        params = GenerationParams(
            max_tokens=length,
            min_tokens=1,
            seed=seed,
            ignore_eos=not short,
            sampling=SamplingParams(temperature=SAMPLE_TEMPERATURE),
        )
        text, _ = generate(stored.model, stored.tokenizer, prompt, params)
        samples.append({"prompt": prompt, "text": text, "seed": seed, "temperature": SAMPLE_TEMPERATURE})
    return samples
