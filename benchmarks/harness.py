"""lm-evaluation-harness against the service, and the same figures without it.

    pip install 'lm-eval[api]'
    CAROUSEL_DTYPE=float32 make serve
    python -m benchmarks.harness --data DATA [--limit 200]

DATA holds blimp_sample/*.jsonl and timemachine/timemachine.txt. Three tasks, written to a folder and run offline: BLiMP
pairs (log-likelihoods), lines of a book (rolling log-likelihoods), completions (generation). Beside each stands what
/score, `python -m training evaluate` and /generate say; evaluation is in float32, hence the server's number type.
"""

import json
import math
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from models.checkpoint.format import load_checkpoint

ROOT = Path(__file__).parents[1]

PROMPTS = ["It was a dark and stormy", "The old man looked at", "She had never been so", "In the morning the"]
GENERATED_TOKENS = 24

PAIRS = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
target_delimiter: ""
num_fewshot: 0
metric_list: [{{metric: acc}}]
"""

ROLLING = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""

GENERATION = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{expected}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: {tokens}, temperature: 0.0}}
metric_list: [{{metric: exact_match}}]
"""


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.", exists=True, file_okay=False)],
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="A served model, also a folder of checkpoints/.")] = "english-word",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Pairs of each BLiMP paradigm, and lines of the book.")
    ] = None,
    lm_eval: Annotated[str, typer.Option(help="The harness's command.")] = "lm_eval",
) -> None:
    """Run the tasks and compare."""
    console = Console()
    table = Table("figure", "lm-evaluation-harness", "without it", "equal")
    with tempfile.TemporaryDirectory() as name, httpx.Client(base_url=url, timeout=120) as client:
        folder = Path(name)
        for row in (
            _pairs(folder, data, client, model, limit, lm_eval),
            _rolling(folder, data, client, model, limit, lm_eval),
            _generation(folder, client, model, lm_eval),
        ):
            table.add_row(*row)
    console.print(table)


def _pairs(folder: Path, data: Path, client: httpx.Client, model: str, limit: int | None, lm_eval: str) -> list[str]:
    docs = []
    for path in sorted((data / "blimp_sample").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()[:limit]
        docs += [{key: json.loads(line)[key] for key in ("sentence_good", "sentence_bad")} for line in lines]
    samples = _run(folder, "pairs", PAIRS, docs, client, model, lm_eval)
    harness = [float(sample["acc"]) for sample in samples]
    ours = []
    for first in range(0, len(docs), 256):
        texts = [doc[key] for doc in docs[first : first + 256] for key in ("sentence_good", "sentence_bad")]
        answer = client.post("/score", json={"text": texts, "eos": False, "model": model}).raise_for_status().json()
        logprobs = [score["logprob"] for score in answer["scores"]]
        # Of equals, as two unknown words are without their spelling, the harness takes the first: the good one.
        ours += [float(good >= bad) for good, bad in zip(logprobs[::2], logprobs[1::2], strict=True)]
    same = sum(a == b for a, b in zip(harness, ours, strict=True))
    shares = [f"{sum(found) / len(docs):.4f}" for found in (harness, ours)]
    return [f"accuracy, {len(docs)} BLiMP pairs", *shares, f"{same} of {len(docs)} pairs"]


def _rolling(folder: Path, data: Path, client: httpx.Client, model: str, limit: int | None, lm_eval: str) -> list[str]:
    text = data / "timemachine" / "timemachine.txt"
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()][:limit]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples = _run(folder, "rolling", ROLLING, [{"text": line + "<eos>"} for line in lines], client, model, lm_eval)
    logprob = math.fsum(float(sample["filtered_resps"][0]) for sample in samples)
    checkpoint = ROOT / "checkpoints" / model
    tokens = len(load_checkpoint(checkpoint).tokenizer.encode_ids("\n".join(lines) + "\n"))
    command = [
        "python",
        "-m",
        "training",
        "evaluate",
        str(checkpoint),
        str(folder / "lines.txt"),
        "--reset",
        "line",
        "--json",
    ]
    evaluated = json.loads(subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout)
    found = [math.exp(-logprob / tokens), evaluated["perplexity"]]
    same = f"{found[0]:.6g}" == f"{found[1]:.6g}"
    return [f"perplexity, {len(lines)} lines", *(f"{one:.6f}" for one in found), "to 6 digits" if same else "no"]


def _generation(folder: Path, client: httpx.Client, model: str, lm_eval: str) -> list[str]:
    wishes = {"prompt": PROMPTS, "max_tokens": GENERATED_TOKENS, "temperature": 0, "stop": ["\n"], "model": model}
    choices = client.post("/generate", json=wishes).raise_for_status().json()["choices"]
    docs = [{"prompt": one, "expected": choice["text"]} for one, choice in zip(PROMPTS, choices, strict=True)]
    samples = _run(folder, "generation", GENERATION, docs, client, model, lm_eval)
    found = [str(sample["filtered_resps"][0]) for sample in samples]
    same = sum(a.strip() == doc["expected"].strip() for a, doc in zip(found, docs, strict=True))
    return [
        f"greedy completions of {len(docs)} prompts",
        repr(found[0][:40]),
        repr(docs[0]["expected"][:40]),
        f"{same} of {len(docs)}",
    ]


def _run(
    folder: Path, name: str, task: str, docs: list[dict[str, Any]], client: httpx.Client, model: str, lm_eval: str
) -> list[dict[str, Any]]:
    """Run one task; its samples in the order of the documents."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    text = task.format(name=f"carousel_{name}", path=path, tokens=GENERATED_TOKENS)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    arguments = {
        "model": model,
        "base_url": f"{str(client.base_url).rstrip('/')}/v1/completions",
        "tokenizer_backend": "remote",
        "tokenized_requests": True,
        "num_concurrent": 8,
        "max_length": 100_000,  # there is no limit of context to keep to
    }
    out = folder / f"out-{name}"
    command = [lm_eval, "--model", "local-completions", "--tasks", f"carousel_{name}", "--include_path", str(folder)]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
    command += ["--output_path", str(out), "--log_samples", "--batch_size", "16"]
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    subprocess.run(command, check=True, env=os.environ | environment)
    (samples,) = out.rglob("samples_*.jsonl")
    lines = map(json.loads, samples.read_text(encoding="utf-8").splitlines())
    return sorted(lines, key=lambda sample: int(sample["doc_id"]))


if __name__ == "__main__":
    typer.run(main)
