"""Does the service keep to its OpenAPI document? Schemathesis asks what the document allows, and what it forbids.

    python -m benchmarks.contract --requests 20000

A server of tiny models (words with a speller, characters) is asked over all routes, for each of the models; all of
schemathesis' checks hold, with two exceptions that are checked here instead: a 504 is an answer to a request that asks
for so little time, and what no schema can say is refused for one of the reasons in `RULES`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.servers import ROOT, Server

RULES = (
    r"limit of",  # settings: `GET /info` tells them
    r"is more than",  # min_tokens and max_tokens, ids and the vocabulary
    r"^state: ",  # a string that is no state of the model
    r"no model is called",
    r"is not made for",
    r"needs a model with a speller",
    r"is not a token id of this model",
    r"lone surrogate",  # JSON can write what UTF-8 cannot
    r"^best_of: ",
    r"^suffix: ",
    r"Input should be a finite number",  # 1e999
    r"less than or equal to 9223372036854775807",  # what reads numbers as doubles takes more
)
"""What a request that the document allows may be refused for: parts of messages. docs/api.md says the same."""

HOOKS = "benchmarks.contract"

cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    requests: Annotated[int, typer.Option(help="How many requests at least.")] = 500,
    examples: Annotated[int, typer.Option(help="How many of a route's in a round.")] = 100,
) -> None:
    """Ask until so many requests have been made, with another seed each round."""
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder) / "models")
        made = round_number = 0
        with Server("ours", models / "word", Path(folder) / "log", CAROUSEL_DEFAULT_MODEL="word") as server:
            while made < requests:
                made += _round(server, round_number, "word" if round_number % 2 == 0 else "char", examples)
                round_number += 1
                print(f"{made} requests, no failure", flush=True)  # noqa: T201
        if re.search(r"Traceback|CRITICAL", log := (Path(folder) / "log").read_text()):
            sys.exit(log[-4000:])


def _round(server: Server, seed: int, model: str, examples: int) -> int:
    """One run of schemathesis; how many requests it made. Ends the process where a check fails."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"),
        *("--checks", "all", "--exclude-checks", "not_a_server_error,positive_data_acceptance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--seed", str(seed), "--no-color"),
        *("--request-timeout", "30", "--warnings", "off", "--suppress-health-check", "all"),
        *("--exclude-path", "/models/reload"),
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "CONTRACT_MODEL": model, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    counted = re.search(r"(\d+) generated", done.stdout)
    if done.returncode or not counted:
        sys.exit(done.stdout[-8000:] + done.stderr[-2000:])
    return int(counted[1])


def _models(folder: Path) -> Path:
    from models.checkpoint.format import add_speller, save_checkpoint
    from models.words.lexicon import Lexicon
    from models.words.speller import VOCABULARY_SIZE, Speller
    from tests.tiny import parts, tiny_model, tiny_tokenizer

    folder.mkdir()
    for level in ("word", "char"):
        tokenizer = tiny_tokenizer(level)
        save_checkpoint(folder / level, tiny_model(len(tokenizer)), tokenizer)
    bytes_alone = tiny_model(VOCABULARY_SIZE, hidden_sizes=(16,))
    add_speller(folder / "word", Speller(*parts(bytes_alone), Lexicon({" zebra": 3}), 0.5))
    return folder


def _register() -> None:
    """What schemathesis imports this file for."""
    import schemathesis  # type: ignore[import-not-found, unused-ignore]

    model = os.environ["CONTRACT_MODEL"]

    @schemathesis.hook  # type: ignore[untyped-decorator, unused-ignore]
    def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
        """Half of the requests name a model of the other kind, where nothing else is said of the model."""
        if isinstance(case.body, dict) and case.method == "POST" and case.body.get("model", "") is None:
            case.body["model"] = model

    @schemathesis.check  # type: ignore[untyped-decorator, unused-ignore]
    def answered(_context: Any, response: Any, case: Any) -> None:
        """No failure of the server; a deadline may pass where the request sets one."""
        asked = isinstance(case.body, dict) and case.body.get("timeout_seconds") is not None
        if response.status_code >= 500 and not (response.status_code == 504 and asked):
            raise AssertionError(f"status {response.status_code}: {response.text[:300]}")

    @schemathesis.check  # type: ignore[untyped-decorator, unused-ignore]
    def refused_for_a_reason(_context: Any, response: Any, case: Any) -> None:
        """What the document allows is refused for one of the reasons that it cannot say."""
        if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 422):
            return
        message = json.loads(response.text)["error"]["message"]
        if not any(re.search(rule, message) for rule in RULES):
            raise AssertionError(f"the document allows what is refused: {message}")


if "CONTRACT_MODEL" in os.environ:
    _register()
elif __name__ == "__main__":
    cli()
