"""The model card: a pure function of what a checkpoint says of itself (`about`), as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.text.levels import LEVELS
from training.evaluation_figures import Figure, current, shown_at
from training.run import SPLITS


def _figures_note(figures: Sequence[Figure]) -> str:
    return " ".join(
        (
            "Reset `never`: each file is one stream from the zero state and `<eos>`, the state carried to the end.",
            "Reset `line`: each line on its own, from `<eos>` to `<eos>`, as `POST /score` does it.",
            *(figure.note for figure in figures if figure.note),
            "All figures are in float32, with the weights as they are stored here.",
        )
    )


def render_card(about: Mapping[str, Any]) -> str:
    """The card's text. about: as training/export.py makes it; the card leaves out what it lacks."""
    shown = shown_at(about["level"])
    sections = [
        f"# {about['name']}",
        _summary(about),
        "## Text\n\n" + _corpus(about),
        "## Model\n\n" + _table([("", "")], _model_rows(about)),
        "## Figures\n\n" + _figures(about.get("figures", {}), shown),
        worse_than_counting(about.get("figures", {})),
        _figures_note(shown),
        "## Made by\n\n```\n" + about["command"] + "\n```",
        _samples(about.get("samples", [])),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(about: Mapping[str, Any]) -> str:
    network = about["network"]
    unit = LEVELS[about["level"]].unit
    layers = " + ".join(map(str, network["hidden_sizes"]))
    text = f"A {unit}-level language model: {network['cell']} of {layers} units, {about['parameters']:,} parameters."
    return text + (f" {about['description']}" if about.get("description") else "")


def _corpus(about: Mapping[str, Any]) -> str:
    header = [("split", ""), ("files", ">"), ("characters", ">"), ("words", ">"), ("tokens", ">"), ("unknown", ">")]
    rows = [
        (
            name,
            _files(about["sources"].get(stem, [])),
            f"{split['characters']:,}",
            f"{split['words']:,}",
            f"{split['tokens']:,}",
            f"{split['oov_rate']:.2%}",
        )
        for name, stem in SPLITS.items()
        if (split := about["corpus"].get(stem))
    ]
    licence = f"\n\nLicence of the text: {about['licence']}" if about.get("licence") else ""
    return _table(header, rows) + "\n\nTokens include every `<eos>`; unknown is their share that is `<unk>`." + licence


def _files(names: list[str]) -> str:
    if not names:
        return "held out of the training text"
    return ", ".join(f"`{name}`" for name in names) if len(names) <= 4 else f"{len(names)} files"


def _speller_line(about: Mapping[str, Any]) -> str:
    listed = f", {about['lexicon']:,} words in its lexicon" if about.get("lexicon") else ""
    return f"{about['speller_parameters']:,} parameters{listed}"


def _model_rows(about: Mapping[str, Any]) -> list[tuple[str, ...]]:
    network = about["network"]
    output = "tied to the embedding" if network["tied"] else "of its own"
    projection = f", projection {network['projection_size']}" if network["projection_size"] else ""
    return [
        ("vocabulary", f"{about['vocabulary']:,} tokens, level `{about['level']}`, boundary `{about['boundary']}`"),
        ("network", f"embedding {network['embedding_size']}, {network['cell']} {network['hidden_sizes']}{projection}"),
        ("output matrix", output),
        ("parameters", f"{about['parameters']:,}"),
        *([("speller", _speller_line(about))] if about.get("speller_parameters") else []),
        ("stored as", f"{about['storage']}, {about['weights_bytes'] / 1e6:.2f} MB"),
        ("training", f"{about['steps']:,} steps, {about['tokens_seen']:,} tokens ({about['epochs']:.1f} epochs)"),
        *([("began with", f"the weights of {about['start']}")] if about.get("start") else []),
        ("best at", f"step {about['best_step']:,}, by validation"),
        ("time", f"{about['minutes']:.1f} minutes"),
        ("hardware", about["hardware"]),
        ("date", about["created"]),
    ]


def worse_than_counting(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Where n-grams predict a held-out text at least as well as the network: that they do, and what to try. Empty
    where they do not."""
    behind = [
        f"{label}: {row['perplexity']:.2f} against {row['ngram_perplexity']:.2f}"
        for label, row in figures.items()
        if row.get("ngram_perplexity") and row.get("perplexity") and row["perplexity"] >= row["ngram_perplexity"]
    ]
    if not behind:
        return ""
    return (
        f"This model is worse than counting (perplexity {'; '.join(behind)}): an n-gram model of the same text "
        "predicts it better. More text helps most; a longer training (`--max-minutes 30`), more `--dropout`, or "
        "beginning with a model of similar text (`--start-from`) may help."
    )


def _figures(figures: Mapping[str, Mapping[str, Any]], shown: Sequence[Figure]) -> str:
    shown = [figure for figure in shown if figure.card_title]
    header = [("text", ""), ("reset", ""), *((figure.card_title or "", ">") for figure in shown)]
    rows = [
        (label, f"`{row['reset']}`", *(figure.text(row, figure.digits) for figure in shown))
        for label, row in ((label, current(row)) for label, row in figures.items())
    ]
    return _table(header, rows)


def _samples(samples: list[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    blocks = "\n\n".join("```\n" + sample["text"].strip("\n").replace("```", "'''") + "\n```" for sample in samples)
    temperature, seeds = samples[0]["temperature"], ", ".join(str(sample["seed"]) for sample in samples)
    prompt = f"the prompt `{samples[0]['prompt']!r}`" if samples[0]["prompt"] else "an empty prompt"
    return f"## Samples\n\nFrom {prompt}, temperature {temperature}, seeds {seeds}.\n\n{blocks}"


def _table(header: list[tuple[str, str]], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table. header: (title, ">" to align right); a single entry stands for all columns."""
    if len(header) == 1 and rows:
        header = header * len(rows[0])
    lines = [[title for title, _ in header], ["---:" if align else "---" for _, align in header], *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
