"""`python -m benchmarks.tables`: writes the tables of README.md and docs/ anew, from results and checkpoints.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function here. Figures are rounded here and
nowhere else. A test fails where a page is not what this command writes.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.report import table
from training.evaluation_figures import current

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_RUN = re.compile(r"\d{4}-\d{2}-\d{2}-(amd-epyc|nvidia-h200)")


@cache
def results(kind: str = "") -> Any:
    """The newest file of a kind (`training`, `levels`, …); without a kind: of `make bench`."""
    suffix = f"-{kind}" if kind else ""
    files = (ROOT / "benchmarks" / "results").glob(f"*{suffix}.json")
    newest = max(file for file in files if _RUN.sub("", file.stem) == suffix)
    return json.loads(newest.read_text("utf-8"))


def included_models() -> str:
    """What the cards of the included models say of held-out text."""
    rows = []
    for folder in sorted((ROOT / "checkpoints").iterdir()):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        about = config["about"]
        cells = [f"[{folder.name}](../checkpoints/{folder.name}/README.md)", _size(folder, config)]
        for split, key in (("validation", "valid"), ("test", "test")):
            if split in about["figures"]:
                figures = current(about["figures"][split])
                text = ", ".join(Path(name).stem for name in about["sources"][key][:4]) or "the end of the text"
                row = [f"{split}: {text}", _round(figures["perplexity"], 2), _round(figures.get("ngram_perplexity"), 2)]
                row += [_round(figures["perplexity_per_word"], 1), _round(figures["bits_per_character"], 3)]
                rows.append([*cells, *row, _round(figures["bits_per_character_closed"], 3)])
                cells = ["", ""]
    titles = ["model", "size", "held-out text", "perplexity per token", "5-gram", "per word", "bits per character"]
    return table([*titles, "closed"], rows)


def levels() -> str:
    """benchmarks/levels.py."""
    rows = [
        [
            row["level"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['epochs']:.0%}",
            f"{row['open']:.3f}",
            f"{row['closed']:.3f}",
        ]
        for row in results("levels")["rows"]
    ]
    return table(["level", "parameters", "text read", "bits a character, open", "closed"], rows)


def ablation() -> str:
    """benchmarks/ablation.py."""
    rows = [
        [row["name"], _round(row["validation"], 0), f"{row['training']:.1f}", f"{row['epochs']:.1f}"]
        for row in results("ablation")["rows"]
    ]
    return table(["settings", "validation", "training (under noise)", "readings"], rows)


def training() -> str:
    """benchmarks/training.py: ours beside the script that people start from."""
    networks = {
        "examples": "200+200, 33,278 types",
        "awd": "1150+1150+400, 33,278 types",
        "default": "english-word's",
    }
    rows = []
    for record in results("training")["records"]:
        rate, memory = record["tokens_per_second"], record["memory_mib"]
        row = [f"{networks[record['shape']]}, {'×'.join(map(str, record['batch']))}"]
        row += [_round(rate["script"], 0), _round(rate["ours"], 0), f"**{record['speedup']:.1f}**"]
        row += [f"{record['of_bfloat16_peak']:.0%}", _round(rate["sampled"], 0), f"{record['sampled_speedup']:.1f}"]
        row += [_round(memory["script"], 0), _round(memory["ours"], 0), f"{record['memory_share']:.0%}"]
        rows.append(row)
    titles = ["network, batch", "script, tokens/s", "Carousel, tokens/s", "ratio", "share of the best product's rate"]
    titles += ["AdamW and 4,096 types sampled, tokens/s", "ratio", "script, MiB", "Carousel, MiB", "share"]
    return table(titles, rows)


def number_types() -> str:
    """benchmarks/quality.py."""
    rows = []
    for row in results("quality")["number_types"]:
        digits = 4 if row["float32"] < 10 else 2
        cells = [f"{row[kind]:.{digits}f} ({row[f'{kind}_change']:+.3%})" for kind in ("bfloat16", "int8")]
        rows.append([row["text"], f"{row['float32']:.{digits}f}", *cells])
    return table(["", "float32", "bfloat16", "int8"], rows)


def http() -> str:
    """Tokens per second through HTTP, ours and the naive server, whole answers and streams."""
    rows = []
    for shape in ("char", "default", "awd"):
        for clients in (1, 64):
            row = [shape if clients == 1 else "", str(clients)]
            for workload in ("decode", "decode-stream"):
                ours, naive = (rate(shape, workload, clients, server) for server in ("ours", "naive"))
                row += [
                    _round(ours, 0 if ours >= 100 else 1),
                    _round(naive, 0 if naive >= 100 else 1),
                    f"{ours / naive:.0f}",
                ]
            rows.append(row)
    return table(["", "clients", "ours", "naive", "ratio", "ours, streamed", "naive, streamed", "ratio"], rows)


def engine() -> str:
    """The engine alone beside its floor, with filters, and with one core taken by another process."""
    rows = []
    for shape in ("char", "default", "awd"):
        for count in (1, 64):
            found = {
                (str(record["sampling"]), record["neighbour"]): record
                for record in results()["records"]
                if record["part"] == "engine" and record["shape"] == shape and record["rows"] == count
                if "requests_of" not in record
            }
            plain, busy = found["{}", False], found["{}", True]
            step = 1000 * count / plain["tokens_per_second"]
            row = [shape if count == 1 else "", str(count), f"{step:.2g}", f"{plain['floor_ms']:.2g}"]
            row.append(f"{step / plain['floor_ms']:.1f}×")
            for sampling in ("{'top_k': 50}", "{'top_p': 0.9}"):
                record = found.get((sampling, False))
                row.append(f"{plain['tokens_per_second'] / record['tokens_per_second']:.2f}×" if record else "")
            rows.append([*row, f"{busy['step_ms']['p90']:.2g}"])
    titles = ["", "rows", "mean step, ms", "floor, ms", "", "`top_k` 50", "`top_p` 0.9", "p90 with one core busy, ms"]
    return table(titles, rows)


def summary() -> str:
    """The first figures that a reader wants."""
    return table(["", ""], [*_serving_figures(), *_model_figures()])


def _serving_figures() -> list[list[str]]:
    one, many = (rate("default", "decode", clients, "ours") for clients in (1, 64))
    faster_one, faster_many = one / rate("default", "decode", 1, "naive"), many / rate("default", "decode", 64, "naive")
    naive = f"**{faster_many:.0f} times** a server that runs one sequence at a time, on the same machine"
    lists, naive_lists = (of("default", "score-list64", 1, server) for server in ("ours", "naive"))
    scored, naive_scored = (load["texts"] / load["seconds"] for load in (lists, naive_lists))
    typed = of("default", "next", 1, "ours")["request_ms"]["p50"]
    trained = next(record for record in results("training")["records"] if record["shape"] == "default")
    speed = f"{trained['speedup']:.1f} times as fast, {trained['sampled_speedup']:.1f} times with a sampled softmax"
    return [
        ["Sampling through HTTP, 64 clients, english-word", f"{many:,.0f} tokens/s, {naive}"],
        ["One client", f"{one:,.0f} tokens/s, {faster_one:.0f} times"],
        ["Lists of 64 sentences through `/score`", f"{scored:,.0f} sentences/s, {scored / naive_scored:.0f} times"],
        ["The next words while a sentence is typed", f"{typed:.1f} ms"],
        [
            "Training english-word's network, beside the script that people start from",
            f"{speed}, in {trained['memory_share']:.0%} of the memory",
        ],
    ]


def _model_figures() -> list[list[str]]:
    word, characters = (figures_of(name) for name in ("english-word", "shakespeare-char"))
    novels, plays = word["validation"], characters["test"]
    blimp, wikitext, speech = (results("quality")[name] for name in ("blimp", "wikitext-2", "librispeech"))
    first, best = f"{100 * speech['first']:.2f}", f"{100 * speech['best_in_list']:.2f}"
    return [
        [
            "english-word on three held-out novels",
            f"perplexity **{novels['perplexity']:.1f}**; a 5-gram baseline (Kneser-Ney, same tokens, same vocabulary) "
            f"{novels['ngram_perplexity']:.1f}",
        ],
        [
            f"BLiMP, mean of {blimp['paradigms']} paradigms",
            f"english **{blimp['english']['open']:.1%}**, english-word {blimp['english-word']['open']:.1%}; "
            "every word spelled, a tie wrong",
        ],
        [
            "WikiText-2, an hour of training on two cores",
            f"test perplexity **{wikitext['test']:.1f}**; the 5-gram baseline {wikitext['ngram_test']:.0f}",
        ],
        [
            f"LibriSpeech {speech['set']}, 10-best lists",
            f"{speech['model']}: word error rate {first} → **{speech['rescored']:.2%}** ({best} at best)",
        ],
        ["Tiny Shakespeare, last tenth", f"{plays['nats_per_character']:.3f} nats a character, with 3.3 M parameters"],
    ]


def models() -> str:
    """The included models, for a reader who looks for one."""
    rows = []
    for folder in sorted((ROOT / "checkpoints").iterdir()):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        rows.append(
            [
                f"[{folder.name}](checkpoints/{folder.name}/README.md)",
                _size(folder, config),
                config["about"]["description"],
            ]
        )
    return table(["included model", "size", "what it is"], rows)


def gpu() -> str:
    """Sampling on a GPU, without HTTP."""
    rows = [
        [
            f"{row['rows']:,}",
            row["filters"],
            f"{row['tokens_per_second']:,}",
            f"{row['step_ms']:.3f}",
            f"{row['floor_ms']:.3f}",
            f"{row['step_ms'] / row['floor_ms']:.0f}",
        ]
        for row in results("gpu")["sampling"]
    ]
    return table(["rows", "filters", "tokens/s", "ms a step", "floor, ms", "times the floor"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "gpu": gpu,
    "summary": summary,
    "models": models,
    "included-models": included_models,
    "levels": levels,
    "ablation": ablation,
    "training": training,
    "number-types": number_types,
    "http": http,
    "engine": engine,
}


def of(shape: str, workload: str, clients: int, server: str) -> dict[str, Any]:
    """One load of `make bench`."""
    found: dict[str, Any] = next(
        record
        for record in results()["records"]
        if (record["shape"], record.get("workload"), record.get("clients"), record["server"])
        == (shape, workload, clients, server)
    )
    return found


def rate(shape: str, workload: str, clients: int, server: str) -> float:
    """Tokens per second."""
    return float(of(shape, workload, clients, server)["tokens_per_second"])


def figures_of(name: str) -> Any:
    return json.loads((ROOT / "checkpoints" / name / "config.json").read_text("utf-8"))["about"]["figures"]


def filled(text: str) -> str:
    """A page with its tables as they are now. Raises `KeyError` for a table that does not exist."""
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}\n{found[3]}", text)


def names(text: str) -> Iterator[str]:
    """The tables of a page."""
    return (found["name"] for found in _TABLE.finditer(text))


def _size(folder: Path, config: dict[str, Any]) -> str:
    about = config["about"]
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    text = f"{size:.1f} MB, {about['parameters'] / 1e6:.1f} M parameters in {config['storage']}"
    if config.get("speller"):
        text += f", a speller of {about['speller_parameters'] / 1e6:.1f} M and {about['lexicon']:,} words"
    return text


def _round(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def main() -> None:
    """Write every page anew."""
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
