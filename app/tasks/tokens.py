"""How answers show tokens."""

from pydantic import BaseModel, Field

from models.decoding.scoring import TokenScore
from models.text.tokenizer import Tokenizer


class TopToken(BaseModel):
    id: int
    token: str
    logprob: float = Field(description="Natural logarithm of its probability.")


def top_tokens(score: TokenScore, tokenizer: Tokenizer) -> list[TopToken]:
    """The alternatives of a scored token, likeliest first."""
    return [TopToken(id=i, token=tokenizer.tokens[i], logprob=logprob) for i, logprob in score.top]
