"""The server that people write today, for comparison: FastAPI and `nn.LSTM`, one sequence and one token at a time.

    python -m benchmarks.naive CHECKPOINT --port 9000

Written as a tutorial would, and fairly: weights are loaded once, gradients are off, a prompt is one pass with logits
for its last token alone, handlers are plain `def` so that FastAPI runs them side by side in its thread pool. A token is
drawn by softmax and `torch.multinomial`, again while it is `<unk>`. Threads and allocator are as torch and FastAPI set
them. It serves the same checkpoints, with network code of its own.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import typer
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from torch import Tensor, nn

from models.checkpoint.format import load_checkpoint
from models.config import NetworkConfig

State = list[tuple[Tensor, Tensor]]


class LSTMModel(nn.Module):
    """Embedding, LSTM layers, optional projection, output. The names of its weights are the checkpoint's."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        sizes = [config.embedding_size, *config.hidden_sizes]
        self.layers = nn.ModuleList(nn.LSTM(a, b, batch_first=True) for a, b in pairwise(sizes))
        self.projection = nn.Linear(sizes[-1], config.projection_size) if config.projection_size else nn.Identity()
        self.output = nn.Linear(config.feature_size, config.vocabulary_size)
        self.scale = config.embedding_size**0.5

    def forward(self, ids: Tensor, state: State | None = None, last_only: bool = False) -> tuple[Tensor, State]:
        x = self.embedding(ids) * self.scale
        new_state = []
        for i, layer in enumerate(self.layers):
            x, hidden = layer(x, state[i] if state else None)
            new_state.append(hidden)
        return self.output(self.projection(x[:, -1:] if last_only else x)), new_state


class GenerateRequest(BaseModel):
    prompt: str = ""
    max_tokens: int = 64
    temperature: float = 1.0
    ignore_eos: bool = False
    stream: bool = False


class ScoreRequest(BaseModel):
    text: str | list[str]


def create_app(checkpoint_folder: Path) -> FastAPI:
    app = FastAPI()
    checkpoint = load_checkpoint(checkpoint_folder)
    tokenizer = checkpoint.tokenizer
    model = LSTMModel(checkpoint.model.config)
    model.load_state_dict(checkpoint.model.state_dict())
    model.eval()

    @torch.no_grad()
    def generate_tokens(request: GenerateRequest) -> Iterator[int]:
        ids = [tokenizer.eos_id, *tokenizer.encode(request.prompt).ids]
        logits, state = model(torch.tensor([ids]), last_only=True)
        for _ in range(request.max_tokens):
            probabilities = torch.softmax(logits[0, -1] / request.temperature, dim=-1)
            token = int(torch.multinomial(probabilities, 1))
            while token == tokenizer.unk_id:
                token = int(torch.multinomial(probabilities, 1))
            if token == tokenizer.eos_id and not request.ignore_eos:
                break
            yield token
            logits, state = model(torch.tensor([[token]]), state)

    def stream_events(request: GenerateRequest) -> Iterator[str]:
        count = 0
        for token in generate_tokens(request):
            count += 1
            yield f"data: {json.dumps({'text': tokenizer.surface(token)})}\n\n"
        yield f"data: {json.dumps({'usage': {'completion_tokens': count}})}\n\n"
        yield "data: [DONE]\n\n"

    @app.post("/generate", response_model=None)
    def generate(request: GenerateRequest) -> dict[str, Any] | StreamingResponse:
        if request.stream:
            return StreamingResponse(stream_events(request), media_type="text/event-stream")
        tokens = list(generate_tokens(request))
        return {"text": tokenizer.decode(tokens), "usage": {"completion_tokens": len(tokens)}}

    @app.post("/score")
    @torch.no_grad()
    def score(request: ScoreRequest) -> dict[str, Any]:
        scores = []
        for text in [request.text] if isinstance(request.text, str) else request.text:
            ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(text).ids, tokenizer.eos_id]])
            logits, _ = model(ids[:, :-1])
            logprobs = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])
            scores.append({"text": text, "logprob": float(logprobs.sum()), "tokens": ids.shape[1] - 1})
        return {"scores": scores}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    return app


def main(checkpoint: Path, port: int = 9000) -> None:
    uvicorn.run(create_app(checkpoint), host="127.0.0.1", port=port)


if __name__ == "__main__":
    typer.run(main)
