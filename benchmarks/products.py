"""The matrix products of a training step, torch's and ours, in bfloat16, at the shapes they have there.

    python -m benchmarks.products [--turns 20]

The two take turns and the best time of each counts. Packing the right-hand matrix of a layer's products is counted; the
output layer's is packed once a step, and is not. Gradients of weights are added to what there is, in float32.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from models.process import prepare_process

prepare_process()

import torch  # noqa: E402
import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.floor import product_rate  # noqa: E402
from benchmarks.host import cpu_slug, describe_host  # noqa: E402
from models.backends.native import processor_features  # noqa: E402
from training.kernels.multiply import multiply, multiply_transposed, right_hand  # noqa: E402

RESULTS = Path(__file__).parent / "results"

SHAPES = {
    "1150 from 1150 units, 5,600 tokens": (5600, 1150, 4600),
    "1150 from 400 units, 5,600 tokens": (5600, 400, 4600),
    "33,278 types from 400, 512 tokens": (512, 400, 33_278),
    "512 from 512 units, 4,096 tokens": (4096, 512, 2048),
    "20,000 types from 256, 832 tokens": (832, 256, 20_000),
}
"""Tokens, inputs and outputs of linear layers: of the literature's network, and of english-word."""

Ways = dict[str, tuple[Callable[[], object], Callable[[], object]]]


def main(turns: Annotated[int, typer.Option(min=1, help="Of each product, on each side.")] = 20) -> None:
    """Billions of operations a second."""
    console = Console(width=120)
    if "avx512_bf16" not in processor_features() or "amx_bf16" in processor_features():
        console.print("on this processor training multiplies with torch: nothing to compare")
        raise typer.Exit(1)
    records: list[tuple[str, str, float, float]] = []
    for name, (tokens, inputs, outputs) in track(SHAPES.items(), "multiplying", console=Console(stderr=True)):
        for what, ways in _products(tokens, inputs, outputs).items():
            theirs, ours = _best_times(ways, turns)
            operations = 2 * tokens * inputs * outputs / 1e9
            records.append((name, what, operations / theirs, operations / ours))
    peak = product_rate("bfloat16", 4.0) / 1e9
    header = describe_host() | {"turns": turns, "best_product_gflops": peak}
    path = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-products.json"
    titles = ("layer", "product", "torch_gflops", "ours_gflops")
    named = [dict(zip(titles, record, strict=True)) for record in records]
    path.write_text(json.dumps({"header": header, "records": named}, indent=1) + "\n")
    table = Table("layer", "product", title=f"GFLOP/s; torch's best product of any shape: {peak:,.0f}")
    for title in ("torch", "ours", "ratio"):
        table.add_column(title, justify="right")
    for name, what, theirs, ours in records:
        table.add_row(name, what, f"{theirs:,.0f}", f"{ours:,.0f}", f"{ours / theirs:.2f}x")
    console.print(table)
    console.print(f"wrote {path}")


def _products(tokens: int, inputs: int, outputs: int) -> Ways:
    """Torch's way and ours: forward, and the gradients of the input and of the weight."""
    x, weight = torch.randn(tokens, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    gradient, of_x = torch.randn(tokens, outputs).bfloat16(), torch.empty_like(x)
    made, of_weight = torch.empty_like(gradient), torch.zeros(outputs, inputs)
    kept = outputs > tokens  # an output layer, whose tokens come in pieces
    forward, backward = right_hand(weight.t()), right_hand(weight)

    def add() -> None:
        nonlocal of_weight
        of_weight += gradient.t() @ x

    return {
        "forward": (
            lambda: torch.mm(x, weight.t(), out=made),
            lambda: multiply(x, forward if kept else right_hand(weight.t()), out=made),
        ),
        "gradient of the input": (
            lambda: torch.mm(gradient, weight, out=of_x),
            lambda: multiply(gradient, backward if kept else right_hand(weight), out=of_x),
        ),
        "gradient of the weight": (add, lambda: multiply_transposed(gradient, x, of_weight, more=True)),
    }


def _best_times(ways: tuple[Callable[[], object], Callable[[], object]], turns: int) -> tuple[float, float]:
    best = [float("inf"), float("inf")]
    for _ in range(turns + 1):
        for side, way in enumerate(ways):
            start = time.perf_counter()
            way()
            best[side] = min(best[side], time.perf_counter() - start)
    return best[0], best[1]


if __name__ == "__main__":
    typer.run(main)
