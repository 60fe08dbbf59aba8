"""The obvious ways to complete and to score texts, by torch, on any device: what training uses, and what the engine and
the backends are tested against.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.decoding.completion import Completion, GenerationParams, prompt_inputs
from models.decoding.sampling import sample
from models.decoding.scoring import BLOCK_ELEMENTS
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from models.text.words import ends_in_space


@torch.inference_mode()
def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, params: GenerationParams
) -> tuple[str, list[int]]:
    """The obvious loop: one sequence, one token at a time. Returns the completion's text and token ids."""
    closed, open_space = tokenizer.cut_open_space(prompt)
    inputs = prompt_inputs(tokenizer, closed)
    completion = Completion(params, tokenizer, ends_in_space(prompt), inputs[1:], len(inputs), open_space)
    device = model.output.weight.device
    state: Tensor = model.config.state_layout.zeros(1).to(device)
    logits, state = model(torch.tensor([inputs], device=device), state)
    while completion.finish_reason is None:
        token_id = int(sample(logits[:, -1].cpu().numpy(), [completion.next_draw()])[0])
        completion.accept(token_id)
        logits, state = model(torch.tensor([[token_id]], device=device), state)
    return completion.text, completion.token_ids


def token_logprobs(model: LanguageModel, features: Tensor, targets: Tensor) -> Tensor:
    """Log-probability, in nats, of each target token.

    features: (N, P). targets: (N,), int64; targets[i] is the token that features[i] predict.
    Returns (N,), float32, every entry <= 0. The (N, V) logits are made in blocks of rows.
    """
    rows = max(1, BLOCK_ELEMENTS // model.config.vocabulary_size)
    parts = []
    for start in range(0, len(targets), rows):
        logits = model.logits(features[start : start + rows]).float()
        chosen = logits.gather(1, targets[start : start + rows, None]).squeeze(1)
        parts.append(chosen - logits.logsumexp(dim=1))
    return torch.cat(parts) if parts else torch.zeros(0)


@torch.inference_mode()
def score_sequences(
    model: LanguageModel, inputs: Sequence[Tensor], targets: Sequence[Tensor], window: int = 256
) -> list[Tensor]:
    """Log-probabilities of whole sequences, each from the zero state; shorter ones ride along padded.

    inputs[i], targets[i]: (T_i,), int64: token t of targets is predicted from tokens 0 … t of inputs.
    Returns (T_i,) float32 each, in the order given.
    """
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    results = [torch.zeros(0)] * len(inputs)
    if not order:
        return results
    lengths = torch.tensor([len(inputs[i]) for i in order])
    padded_inputs = pad_sequence([inputs[i] for i in order], batch_first=True)  # (B, T)
    padded_targets = pad_sequence([targets[i] for i in order], batch_first=True)
    device = model.output.weight.device
    scores = torch.zeros(padded_inputs.shape)
    state = model.config.state_layout.zeros(len(order), device)
    for start in range(0, padded_inputs.shape[1], window):
        alive = int((lengths > start).sum())  # longest first: the rows still alive are the first ones
        chunk = padded_inputs[:alive, start : start + window]
        features, state = model.features(chunk.to(device), state[:alive])
        real = start + torch.arange(chunk.shape[1]) < lengths[:alive, None]  # (B, T): not padding
        target = padded_targets[:alive, start : start + window][real]
        scores[:alive, start : start + window][real] = token_logprobs(model, features[real], target.to(device)).cpu()
    for row, i in enumerate(order):
        results[i] = scores[row, : lengths[row]]
    return results
