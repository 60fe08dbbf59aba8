"""How tokens look in this API: surface forms, start offsets, alternatives by surface form."""

from dataclasses import dataclass

from app.errors import InvalidValueError, shown
from app.openai.schemas import Logprobs
from models.decoding.scoring import TokenScore
from models.text.levels import EOS, UNK
from models.text.tokenizer import Tokenizer


class Places:
    """Start offsets of the tokens of a text that grows, in code points."""

    def __init__(self, tokenizer: Tokenizer, at_start: bool, offset: int = 0, open_space: bool = False) -> None:
        """offset: where the text begins. at_start: whether what stands before it is empty or ends in white space.
        open_space: see `Tokenizer.cut_open_space`."""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder(at_start, open_space)
        self._end = offset

    def next(self, token_id: int) -> int:
        text, begin = self._decoder.feed(token_id), self._end
        self._end += len(text)
        own = self._tokenizer.surface(token_id)
        # The bytes of an unfinished character may have become text before the token's own.
        return self._end - len(own) if own and text.endswith(own) else begin


@dataclass(frozen=True)
class Echo:
    """A prompt as answers repeat it.

    surfaces, offsets: of each of its tokens, a start symbol among token ids included; empty where the prompt's tokens
    are not reported. open_space: whether it ends in a space that belongs to the token to come.
    """

    text: str
    token_ids: list[int]
    surfaces: list[str]
    offsets: list[int]
    open_space: bool = False


def echo(prompt: str | list[int], index: int, tokenizer: Tokenizer, reported: bool) -> Echo:
    """The echo of prompt number `index`. Raises `InvalidValueError` for token ids outside the vocabulary."""
    if isinstance(prompt, str):
        return _echo_of_text(prompt, tokenizer, reported)
    for place, token_id in enumerate(prompt):
        check_token_id(token_id, f"prompt.{index}.{place}", tokenizer)
    places = Places(tokenizer, at_start=True)
    started = prompt[:1] == [tokenizer.eos_id]  # the start symbol is not written
    offsets = [0] * started + [places.next(token_id) for token_id in prompt[started:]]
    text = tokenizer.decode(prompt[started:])
    return Echo(text, list(prompt), [token_key(token_id, tokenizer) for token_id in prompt], offsets)


def _echo_of_text(prompt: str, tokenizer: Tokenizer, reported: bool) -> Echo:
    closed, open_space = tokenizer.cut_open_space(prompt)
    if not reported:
        return Echo(prompt, tokenizer.encode_ids(closed), [], [], open_space)
    encoding = tokenizer.encode(closed)
    # Tokens whose surface form is what the text has, which may differ from the vocabulary entry.
    as_written = {tokenizer.unk_id}
    if tokenizer.rules.shows_as_written:
        as_written = set(encoding.ids) - {tokenizer.eos_id}
    surfaces = [
        prompt[start:end] if token_id in as_written else token_key(token_id, tokenizer)
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    return Echo(prompt, encoding.ids, surfaces, [start for start, _ in encoding.offsets], open_space)


def check_token_id(token_id: int, param: str, tokenizer: Tokenizer) -> None:
    """Raises `InvalidValueError` for an id outside the vocabulary."""
    if token_id >= len(tokenizer):
        last = len(tokenizer) - 1
        message = f"{param}: {shown(token_id)} is not a token id of this model, whose ids are 0 … {last}"
        raise InvalidValueError(message, param)


def token_key(token_id: int, tokenizer: Tokenizer) -> str:
    """The surface form of a token, different for each token: the special tokens by name, and bytes that are not text by
    themselves as `bytes:\\xNN`."""
    if token_id == tokenizer.eos_id:
        return EOS
    if token_id == tokenizer.unk_id:
        return UNK
    content = tokenizer.token_bytes[token_id]
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def no_logprobs() -> Logprobs:
    """Lists without entries, to be filled token by token."""
    return Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])


def add_token(to: Logprobs, surface: str, offset: int, score: TokenScore | None, tokenizer: Tokenizer) -> None:
    """Appends a token to a choice's logprobs."""
    to.tokens.append(surface)
    to.token_logprobs.append(score.logprob if score else None)
    to.top_logprobs.append(_alternatives(score, surface, tokenizer) if score else None)
    to.text_offset.append(offset)


def _alternatives(score: TokenScore, surface: str, tokenizer: Tokenizer) -> dict[str, float]:
    """By surface form, the token itself among them."""
    found = {
        surface if token_id == score.token_id else token_key(token_id, tokenizer): logprob
        for token_id, logprob in score.top
    }
    found.setdefault(surface, score.logprob)
    return found
