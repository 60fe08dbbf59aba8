"""PNG pictures of logs, gradient norms and word frequencies. matplotlib is an extra, imported when first needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.persistence import LOG, read_log

CURVE = "curve.png"

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")


class PlotError(RuntimeError):
    """A picture that cannot be drawn or written; the message says why."""


def _figure(width: float = 9, height: float = 5) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display, and without pyplot's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotError("pictures need matplotlib: pip install 'carousel-lm[train]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start (Kingma & Ba 2015, section 3)."""
    smoothed, average = [], 0.0
    for count, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed


def plot_run(directory: Path, label: str) -> Path:
    """Writes curve.png: training and validation loss, and the learning rate, against steps. label: of the losses."""
    if not (directory / LOG).is_file():
        raise PlotError(f"{directory / LOG}: cannot be read (there is no such file)")
    reports = read_log(directory)
    train = [(report.step, report.loss) for report in reports if report.loss is not None]
    validation = [(report.step, report.validation) for report in reports if report.validation is not None]
    if not train:
        raise PlotError(f"{directory / LOG}: no steps to plot yet")
    figure, axes = _figure()
    steps, losses = zip(*train, strict=True)
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(losses), color="tab:blue", label="training, smoothed")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="tab:red", marker=".", label="validation")
    axes.set(xlabel="step", ylabel=label, title=directory.name)
    axes.set_ylim(top=min(max(losses), 1.15 * smooth(losses)[min(5, len(losses) - 1)]))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    rate = axes.twinx()
    rate.plot([report.step for report in reports], [report.learning_rate for report in reports], color="gray", ls=":")
    rate.set_ylabel("learning rate (dotted)")
    path = directory / CURVE
    figure.savefig(path, dpi=120)
    return path


def plot_comparison(curves: dict[str, Sequence[tuple[float, float]]], label: str, path: Path) -> None:
    """Validation loss of several runs. curves: by name, (minutes, value). label: of the values."""
    figure, axes = _figure()
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
    best = [value for points in curves.values() for _, value in points]
    if best:
        axes.set_ylim(min(best) - 0.05, min(max(best), min(best) + 2.0))
    axes.set(xlabel="minutes of training", ylabel=f"validation, {label}")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_range(rates: Sequence[float], losses: Sequence[float], suggested: float | None, path: Path) -> None:
    """Loss against learning rate in a range test."""
    figure, axes = _figure()
    axes.semilogx(rates, losses, color="tab:blue", alpha=0.25)
    axes.semilogx(rates, smooth(losses), color="tab:blue", label="smoothed")
    if suggested is not None:
        axes.axvline(suggested, color="tab:red", ls=":", label=f"falls fastest at {suggested:.1e}")
    axes.set(xlabel="learning rate", ylabel="nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_flows(flows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gradient norms against distance on a logarithmic axis: dashed at initialisation, solid when trained."""
    figure, axes = _figure()
    colors = dict(zip(dict.fromkeys(flow["kind"] for flow in flows), COLORS, strict=False))
    for flow in flows:
        trained = flow["steps"] > 0
        label = f"{flow['kind']}, {'trained' if trained else 'at initialisation'}"
        if flow["forget_bias"] is not None and not trained:
            label += f" (forget bias {flow['forget_bias']:g})"
        values = [norm if norm > 0 else float("nan") for norm in flow["norms"]]
        axes.semilogy(values, "-" if trained else "--", color=colors[flow["kind"]], label=label)
    axes.set(xlabel="distance from the predicted token, in tokens", ylabel="norm of dL/dh")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    _save(figure, path)


def plot_zipf(counts: Sequence[int], exponent: float, constant: float, path: Path) -> None:
    """Frequency against rank on logarithmic axes, with the fitted line. counts: descending."""
    figure, axes = _figure(7, 5)
    axes.loglog(range(1, len(counts) + 1), counts, ".", markersize=3, label="types")
    ends = [1, len(counts)]
    line = [constant * rank**-exponent for rank in ends]
    axes.loglog(ends, line, color="tab:red", linewidth=1, label=f"frequency ∝ rank^-{exponent:.2f}")
    axes.set(xlabel="rank", ylabel="frequency")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise PlotError(f"{path}: cannot be written ({error})") from None
