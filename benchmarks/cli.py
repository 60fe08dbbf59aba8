"""`python -m benchmarks`: real servers on loopback, side by side; a JSON file and a Markdown table of what they did."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks.host import cpu_slug, describe_host
from benchmarks.measure import PARTS, Options, Record, measure_engine, measure_server
from benchmarks.report import markdown
from benchmarks.servers import Kind
from benchmarks.shapes import SHAPES, TINY_SHAPES, write_checkpoint

RESULTS = Path(__file__).parent / "results"

KINDS: tuple[Kind, ...] = ("ours", "naive")

QUICK = Options(window_seconds=0.3, limit_seconds=20, repeats=1, max_clients=8, scale=0.02)

progress = Console(stderr=True, highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Tiny networks, short windows: does it all work?")] = False,
    only: Annotated[str, typer.Option(help=f"Parts, comma-separated, of: {', '.join(PARTS)}.")] = "",
    shape: Annotated[str, typer.Option(help="Shapes, comma-separated; not given: all.")] = "",
    window: Annotated[float | None, typer.Option(help="Seconds of one measurement.", min=0.1)] = None,
    limit: Annotated[float | None, typer.Option(help="Seconds until a slow answer is given up.", min=1)] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"], typer.Option(help="Number type of ours.")
    ] = "auto",
    naive: Annotated[bool, typer.Option(help="Measure the naive server too.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of results.", file_okay=False)] = RESULTS,
) -> None:
    """Measure this machine; takes about an hour, two minutes with --quick."""
    base = asdict(QUICK if quick else Options()) | {"dtype": dtype}
    given = {"window_seconds": window, "limit_seconds": limit}
    options = Options(**base | {name: value for name, value in given.items() if value is not None})
    available = {candidate.name: candidate for candidate in (TINY_SHAPES if quick else SHAPES)}
    parts = _chosen("--only", only, PARTS)
    shapes = [available[name] for name in _chosen("--shape", shape, tuple(available))]
    header = describe_host() | {"options": asdict(options), "backends": {}}
    records: list[Record] = []

    def report(record: Record) -> None:
        records.append(record)
        if record["server"] == "ours":
            header["backends"][record["shape"]] = record["backend"]
        what = f"{record['shape']} {record['part']} {record['server']}"
        load = f"{record['workload']} x{record['clients']}" if "workload" in record else f"rows {record['rows']}"
        rate = record["tokens_per_second"] or record["requests_per_second"]
        progress.print(f"{what} {load}: {rate:,.1f}/s {record.get('error') or ''}", markup=False)

    try:
        with tempfile.TemporaryDirectory(prefix="carousel-bench-") as temporary:
            for wanted in shapes:
                folder = Path(temporary) / wanted.name
                made = write_checkpoint(wanted, folder)
                for kind in KINDS if naive else KINDS[:1]:
                    measure_server(made, kind, folder, set(parts), options, report)
                if "engine" in parts:
                    measure_engine(made, folder, options, report)
    finally:  # a run that breaks off has measured something too
        text = markdown(header, records)
        name = "-".join([header["date"][:10], cpu_slug(header["cpu"]), *_suffixes(quick, only, shape, dtype)])
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps({**header, "records": records}, indent=1) + "\n")
        (out / f"{name}.md").write_text(text)
        print(text)  # noqa: T201


def _chosen(option: str, value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(value.split(",")) if value else known
    if unknown := set(names) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}", param_hint=option)
    return names


def _suffixes(quick: bool, only: str, shape: str, dtype: str) -> list[str]:
    """What distinguishes the file of a partial run from that of a whole one."""
    return [word for word in ("quick" if quick else "", *shape.split(","), *only.split(",")) if word] + (
        [] if dtype == "auto" else [dtype]
    )
