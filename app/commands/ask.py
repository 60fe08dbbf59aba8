"""/generate and /next from the terminal."""

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.commands.options import plain, with_fields
from app.commands.shared import CheckpointsOption, ModelOption, make_body, run_with_model
from app.tasks import generate as generation
from app.tasks import next as next_words
from app.tasks.generate import GenerateRequest, GenerationBody, StreamedText
from app.tasks.next import NextRequest
from app.tasks.task import Call

NOT_OPTIONS = {"logprobs", "stream", "timeout_seconds"}
"""Fields that make no difference to the text that is printed."""

GENERATION = [
    name
    for name, field in GenerationBody.model_fields.items()
    if plain(field.annotation) is not None and name not in NOT_OPTIONS
]


@with_fields(GenerateRequest, GENERATION)
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; '-' reads it from standard input.")] = "",
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
    **fields: Any,
) -> None:
    """Continue a text, printed as it is sampled."""
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    body = make_body(GenerateRequest, prompt=text, model=model, **fields)

    async def work(call: Call) -> None:
        generation.TASK.check(body, call)
        if body.n > 1:
            for choice in (await generation.answer(body, call)).choices:
                print(text + choice.text)  # noqa: T201
            return
        sys.stdout.write(text)
        async for together in generation.stream(body, call):
            sys.stdout.write("".join(event.text for event in together if isinstance(event, StreamedText)))
            sys.stdout.flush()
        sys.stdout.write("\n")

    run_with_model(work, model, checkpoints)


@with_fields(NextRequest, ["top", "punctuation"])
def next_(
    text: Annotated[str, typer.Argument(help="Text so far; inside a word, the word is completed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
    **fields: Any,
) -> None:
    """The likeliest next words."""
    body = make_body(NextRequest, text=text, model=model, **fields)

    async def work(call: Call) -> None:
        next_words.TASK.check(body, call)
        answer = await next_words.answer(body, call)
        if as_json:
            print(answer.model_dump_json())  # noqa: T201
            return
        table = Table("word", "probability")
        for word in answer.words:
            table.add_row(Text(word.word), f"{word.prob:.4f}")
        Console().print(table)

    run_with_model(work, model, checkpoints)
