"""/generate and /next from the terminal."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.commands.shared import CheckpointsOption, ModelOption, make_body, run_with_model
from app.limits import check_generate, check_next
from app.registry import ServedModel
from app.schemas import GenerateRequest, NextRequest, StreamedText
from app.settings import Settings
from app.tasks import generate as generation
from app.tasks import next as next_words


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; '-' reads it from standard input.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a completion.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0: always the likeliest token.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest whose mass reaches p.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="The text ends before this; may be given again.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Exactly --max-tokens tokens.")] = False,
    n: Annotated[int, typer.Option("-n", help="Completions.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.")] = None,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """Continue a text, printed as it is drawn."""
    body = make_body(
        GenerateRequest,
        prompt=sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=stop or [],
        ignore_eos=ignore_eos,
        n=n,
        seed=seed,
    )

    async def work(served: ServedModel, settings: Settings) -> None:
        check_generate(body, settings, len(served.checkpoint.tokenizer))
        if body.n > 1:
            answer = await generation.answer(body, served, settings.timeout_seconds)
            for choice in answer.choices:
                print(body.prompt[0] + choice.text)  # noqa: T201
            return
        sys.stdout.write(body.prompt[0])
        async for together in generation.stream(body, served, settings.timeout_seconds):
            sys.stdout.write("".join(event.text for event in together if isinstance(event, StreamedText)))
            sys.stdout.flush()
        sys.stdout.write("\n")

    run_with_model(work, model, checkpoints)


def next_(
    text: Annotated[str, typer.Argument(help="Text so far; inside a word, the word is completed.")],
    top: Annotated[int, typer.Option(help="Most words to offer.")] = 10,
    punctuation: Annotated[bool, typer.Option("--punctuation", help="Offer punctuation marks too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    model: ModelOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """The likeliest next words."""
    body = make_body(NextRequest, text=text, model=model, top=top, punctuation=punctuation)

    async def work(served: ServedModel, settings: Settings) -> None:
        check_next(body, settings)
        answer = await next_words.answer(body, served, settings.timeout_seconds)
        if as_json:
            print(answer.model_dump_json())  # noqa: T201
            return
        table = Table("word", "probability")
        for word in answer.words:
            table.add_row(Text(word.word), f"{word.prob:.4f}")
        Console().print(table)

    run_with_model(work, model, checkpoints)
