"""What a word costs that a beam search asks for: `carousel.kenlm` beside the `kenlm` module, where that is installed.

    python -m benchmarks.kenlm_call --model english-word

Three calls: a word after a state that nothing was asked of yet, for which the network makes a step; another word after
the same state, which is a look-up; and a whole sentence. KenLM is given a 2-gram file of these words alone, its
cheapest case: its time is that of the call.
"""

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from carousel import kenlm as ours

TEXT = "the old man looked at the sea and said that it was a fine day for a walk along the shore"
WORDS = TEXT.split()
SENTENCE = "The old man looked at the sea."
CALLS = 300


def main(
    model: Annotated[str, typer.Option(help="Name or path of a model.")] = "english-word",
    rounds: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Print microseconds a call, the median over the rounds."""
    models: dict[str, tuple[Any, Any]] = {f"carousel.kenlm, {model}": (ours, ours.Model(model))}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            import kenlm  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            Console(stderr=True).print("kenlm is not installed: only ours is timed")
        else:
            path = Path(scratch) / "words.arpa"
            path.write_text(_arpa(sorted(set(WORDS))), encoding="utf-8")
            models["kenlm, 2-gram"] = (kenlm, kenlm.Model(str(path)))
    table = Table("module", "first word after a state", "another word", "sentence of 8 words", title="µs a call")
    for name, (module, loaded) in models.items():
        calls = _first_words(module, loaded), _other_words(module, loaded), lambda lm=loaded: lm.score(SENTENCE)
        table.add_row(name, *(f"{1e6 * median(_seconds(call) for _ in range(rounds)):.1f}" for call in calls))
    Console(width=100).print(table)


def _arpa(words: list[str]) -> str:
    """A model of the words' pairs as they follow each other."""
    ones = [f"-1.0\t{word}\t-0.5" for word in ("<unk>", "<s>", "</s>", *words)]
    twos = [f"-0.3\t{first} {second}" for first, second in sorted(set(pairwise(WORDS)))]
    counts = f"\\data\\\nngram 1={len(ones)}\nngram 2={len(twos)}\n"
    return counts + "\n\\1-grams:\n" + "\n".join(ones) + "\n\n\\2-grams:\n" + "\n".join(twos) + "\n\n\\end\\\n"


def _first_words(module: Any, model: Any) -> Callable[[], None]:
    """Each call goes on from the state that the call before left."""
    state = module.State()
    model.BeginSentenceWrite(state)
    position = 0

    def call() -> None:
        nonlocal state, position
        after = module.State()
        model.BaseScore(state, WORDS[position % len(WORDS)], after)
        state, position = after, position + 1

    return call


def _other_words(module: Any, model: Any) -> Callable[[], None]:
    """All calls are after one state, from which one word has been asked already."""
    state, after = module.State(), module.State()
    model.BeginSentenceWrite(state)
    model.BaseScore(state, WORDS[0], after)
    position = 0

    def call() -> None:
        nonlocal position
        position += 1
        model.BaseScore(state, WORDS[position % len(WORDS)], after)

    return call


def _seconds(call: Callable[[], object]) -> float:
    call()
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS


if __name__ == "__main__":
    typer.run(main)
