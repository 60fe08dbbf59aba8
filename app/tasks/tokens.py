"""How answers show tokens."""

from app.schemas import TopToken
from models.decoding.scoring import TokenScore
from models.text.tokenizer import Tokenizer


def top_tokens(score: TokenScore, tokenizer: Tokenizer) -> list[TopToken]:
    """The alternatives of a scored token, likeliest first."""
    return [TopToken(id=i, token=tokenizer.tokens[i], logprob=logprob) for i, logprob in score.top]
