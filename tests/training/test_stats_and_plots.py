"""Statistics by hand, and pictures that are there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.plots import PlotError, plot_run, plot_zipf, smooth
from training.prepare import make_trainer
from training.run import Run
from training.studies.statistics import fit_zipf, measure

PNG = b"\x89PNG"


def test_tokens_types_and_hapaxes() -> None:
    statistics, frequencies = measure(["a b a c\nd a b\n\n" + "a b\n" * 20], "word")
    assert (statistics.tokens, statistics.types, statistics.hapaxes) == (47, 5, 2)  # a, " b", " a"; " c" and d once
    assert frequencies[0] == 22


def test_unknown_words_get_fewer_as_the_vocabulary_grows() -> None:
    text = "".join(f"word{i % 1500} common\n" for i in range(4000))
    statistics, _ = measure([text], "split")
    rates = list(statistics.oov_rates.values())
    assert next(iter(statistics.oov_rates)) == 1000
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0


def test_zipf_exponent_of_an_exact_power_law() -> None:
    exponent, constant = fit_zipf([round(1e6 * rank**-1.1) for rank in range(1, 2000)])
    assert exponent == pytest.approx(1.1, abs=0.01)
    assert constant == pytest.approx(1e6, rel=0.05)


def test_learning_curve_is_drawn_also_from_a_log_cut_short(make_run: Callable[..., Run]) -> None:
    run = make_run()
    make_trainer(run).run(lambda _: None)
    with (run.directory / "log.jsonl").open("a") as log:
        log.write('{"step": 50, "lo')
    assert plot_run(run.directory, "nats per token").read_bytes().startswith(PNG)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="cannot be read"):
        plot_run(tmp_path, "nats per token")
    line = {"step": 1, "tokens": 64, "seconds": 0.1, "learning_rate": 0.1, "valid_nats": 1.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(PlotError, match="no steps to plot yet"):
        plot_run(tmp_path, "nats per token")


def test_zipf_plot(tmp_path: Path) -> None:
    plot_zipf([100, 50, 33, 25], 1.0, 100.0, tmp_path / "zipf.png")
    assert (tmp_path / "zipf.png").read_bytes().startswith(PNG)


def test_smoothing_keeps_a_constant() -> None:
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
