"""The model card: a pure function of what a checkpoint tells of itself (`about`), as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

FIGURES_NOTE = """\
Reset `never`: each file is one stream from the zero state and `<eos>`, the state carried to the end. Reset `line`: each
line on its own, from `<eos>` to `<eos>`, as `POST /score` does it. Perplexity per token: exp(nats / predicted tokens),
`<eos>` and `<unk>` included. Perplexity per word: exp(nats / (whitespace-separated words + predicted `<eos>`)). Bits
per character: nats / (ln 2 × code points of the text), where an `<unk>` is charged as the symbol alone; open: its
spelling too, by the checkpoint's speller. Counting: what n-grams alone reach on the same tokens, by interpolated
modified Kneser-Ney smoothing of the training text (`train` takes 16 million tokens of it at most, `ngram` all). All in
float32, with the weights as they are stored here."""


def render_card(about: Mapping[str, Any]) -> str:
    """The card's text. about: as training/export.py makes it; whatever it lacks is left out."""
    sections = [
        f"# {about['name']}",
        _summary(about),
        "## Text\n\n" + _corpus(about),
        "## Model\n\n" + _table([("", "")], _model_rows(about)),
        "## Figures\n\n" + _figures(about.get("figures", {})) + "\n\n" + FIGURES_NOTE,
        "## Made by\n\n```\n" + about["command"] + "\n```",
        _samples(about.get("samples", [])),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(about: Mapping[str, Any]) -> str:
    network = about["network"]
    unit = {"char": "character", "word": "word", "split": "word (split at spaces)", "bpe": "subword"}[about["level"]]
    layers = " + ".join(map(str, network["hidden_sizes"]))
    text = f"A {unit}-level language model: {network['cell']} of {layers} units, {about['parameters']:,} parameters."
    return text + (f" {about['description']}" if about.get("description") else "")


def _corpus(about: Mapping[str, Any]) -> str:
    header = [("split", ""), ("files", ">"), ("characters", ">"), ("words", ">"), ("tokens", ">"), ("unknown", ">")]
    rows = [
        (
            name,
            _files(about["sources"].get(name, [])),
            f"{split['characters']:,}",
            f"{split['words']:,}",
            f"{split['tokens']:,}",
            f"{split['oov_rate']:.2%}",
        )
        for name, split in about["corpus"].items()
    ]
    licence = f"\n\nLicence of the text: {about['licence']}" if about.get("licence") else ""
    return (
        _table(header, rows)
        + "\n\nTokens include every `<eos>`; unknown is the share of them that is `<unk>`."
        + licence
    )


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


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    header = [
        ("text", ""),
        ("reset", ""),
        ("perplexity per token", ">"),
        ("perplexity per word", ">"),
        ("bits per character", ">"),
        ("open bits per character", ">"),
        ("nats per character", ">"),
        ("counting: perplexity per token", ">"),
        ("predicted tokens", ">"),
        ("unknown", ">"),
    ]
    rows = [
        (
            label,
            f"`{row['reset']}`",
            number(row["perplexity"], 2),
            number(row["perplexity_per_word"], 2),
            number(row["bits_per_character"], 4),
            number(row.get("open_bits_per_character"), 4),
            number(row["nats_per_character"], 4),
            _counted(row),
            f"{row['tokens']:,}",
            f"{row['oov_rate'] or 0:.2%}",
        )
        for label, row in figures.items()
    ]
    return _table(header, rows)


def _counted(row: Mapping[str, Any]) -> str:
    if row.get("ngram_perplexity") is None:
        return number(None, 2)
    return f"{number(row['ngram_perplexity'], 2)} ({row['ngram_order']}-gram)"


def _samples(samples: list[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    blocks = "\n\n".join("```\n" + sample["text"].strip("\n").replace("```", "'''") + "\n```" for sample in samples)
    temperature, seeds = samples[0]["temperature"], ", ".join(str(sample["seed"]) for sample in samples)
    prompt = f"the prompt `{samples[0]['prompt']!r}`" if samples[0]["prompt"] else "an empty prompt"
    return f"## Samples\n\nFrom {prompt}, temperature {temperature}, seeds {seeds}.\n\n{blocks}"


def number(value: float | None, digits: int) -> str:
    """A figure as text: a dash where it does not exist, powers of ten where it is huge, as per word without spaces."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if value < 1e6 else f"{value:.2e}"


def _table(header: list[tuple[str, str]], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table. header: (title, ">" to align right); one entry stands for as many empty ones as needed."""
    if len(header) == 1 and rows:
        header = header * len(rows[0])
    lines = [[title for title, _ in header], ["---:" if align else "---" for _, align in header], *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
