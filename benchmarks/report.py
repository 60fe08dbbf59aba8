"""Records of a run as Markdown. Arithmetic is left to whoever measured, but for ratios between two of their figures."""

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def markdown(header: Record, records: list[Record]) -> str:
    """The whole report."""
    sections = [_header(header)]
    http = [record for record in records if record["part"] != "engine"]
    for part in dict.fromkeys(record["part"] for record in http):
        sections += [f"## {part}", _loads([record for record in http if record["part"] == part])]
    engine = [record for record in records if record["part"] == "engine"]
    if engine:
        sections += ["## engine alone", _engine(engine, http)]
    failed = [
        f"- {_name(record)}: {record['failed']} failed ({record['error']})" for record in http if record["failed"]
    ]
    if failed:
        sections += ["## failures", "\n".join(failed)]
    return "\n\n".join(sections) + "\n"


def _header(header: Record) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in header["packages"].items())
    return "\n".join(
        [
            f"# Benchmark of {header['date']}",
            "",
            f"- {header['cpu']}, {header['cores']} cores ({', '.join(header['flags'])}), Linux {header['kernel']}; "
            f"load average at the start {header['load_average']:.1f}",
            f"- Python {header['python']}, {packages}; commit {header['commit']}",
            f"- options: {', '.join(f'{name} {value}' for name, value in header['options'].items())}",
            f"- backends: {', '.join(f'{shape} {backend}' for shape, backend in header['backends'].items())}",
        ]
    )


def _loads(records: list[Record]) -> str:
    """Both servers under the same load, one below the other. Times are p50 / p90 / p99 in ms."""
    titles = ["shape", "workload", "clients", "server", "tokens/s", "requests/s", "ratio", "spread", "request ms"]
    titles += ["first token ms", "between tokens ms", "steps/text", "abandoned", "client CPU"]
    naive = {_load(record): record for record in records if record["server"] == "naive"}
    order = list(dict.fromkeys(map(_load, records)))
    rows = []
    for record in sorted(records, key=lambda record: order.index(_load(record))):
        row = [record["shape"], record["workload"], str(record["clients"]), record["server"]]
        row += [_number(record["tokens_per_second"]), _number(record["requests_per_second"])]
        other = naive.get(_load(record))
        row += [_ratio(record, other) if record["server"] == "ours" and other else "", _share(record["spread"])]
        row += [_times(record[name]) for name in ("request_ms", "first_token_ms", "between_tokens_ms")]
        row.append(f"{record['steps_per_text']:.1f}" if record["steps_per_text"] else "")
        rows.append([*row, str(record["abandoned"] or ""), _share(record["client_cpu"])])
    return table(titles, rows)


def _load(record: Record) -> tuple[str, str, int]:
    return record["shape"], record["workload"], record["clients"]


def _ratio(ours: Record, naive: Record) -> str:
    rate = "tokens_per_second" if ours["tokens"] else "requests_per_second"
    return f"{ours[rate] / naive[rate]:.1f}×" if naive[rate] else ""


def _engine(records: list[Record], http: list[Record]) -> str:
    """The engine beside its floor, and what HTTP keeps of it: the same requests, not streamed, put to both."""
    titles = ["shape", "backend", "rows", "sampling", "busy core", "tokens/s", "step p50 / p90 / p99 ms"]
    plain = {(r["shape"], r["rows"]): r for r in records if not r.get("sampling", True) and not r["neighbour"]}
    over_http = {(r["shape"], r["clients"]): r for r in http if r["workload"] == "decode" and r["server"] == "ours"}
    rows = []
    for record in records:
        key = (record["shape"], record["rows"])
        row = [record["shape"], record["backend"], str(record["rows"])]
        if "requests_of" in record:
            kept = over_http[key]["tokens_per_second"] / record["tokens_per_second"] if key in over_http else None
            row += ["requests as over HTTP", "", _number(record["tokens_per_second"]), "", "", ""]
            share = record["tokens_per_second"] / plain[key]["tokens_per_second"] if key in plain else None
            rows.append([*row, f"{1 / share:.2f}×" if share else "", _share(kept)])
            continue
        step_ms = 1000 * record["rows"] / record["tokens_per_second"]
        row += [_sampling(record), "yes" if record["neighbour"] else ""]
        row += [_number(record["tokens_per_second"]), _times(record["step_ms"])]
        row += [f"{record['floor_ms']:.3f}", f"{step_ms / record['floor_ms']:.1f}×"]
        row.append(f"{plain[key]['tokens_per_second'] / record['tokens_per_second']:.2f}×" if key in plain else "")
        kept = over_http[key]["tokens_per_second"] / record["tokens_per_second"] if key in over_http else None
        rows.append([*row, _share(kept) if plain.get(key) is record else ""])
    return table([*titles, "floor ms", "step / floor", "cost / plain", "kept by HTTP"], rows)


def table(titles: list[str], rows: Iterable[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sampling(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record["sampling"].items()) or "plain"


def _name(record: Record) -> str:
    return f"{record['server']}, {record['shape']}, {record['workload']}, {record['clients']} clients"


def _number(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _times(quantiles: dict[str, float] | None) -> str:
    return " / ".join(f"{quantiles[name]:.3g}" for name in ("p50", "p90", "p99")) if quantiles else ""
