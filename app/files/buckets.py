"""Head, middle and tail: where a text stands among others by perplexity, the spelling of unknown words included."""

import math
from array import array
from typing import Any, Literal

from models.decoding.scoring import best_total

Bucket = Literal["head", "middle", "tail"]


class Quantiles:
    """The distribution of any number of values between 0 and `HIGHEST`, to `WIDTH`, in constant memory."""

    WIDTH, HIGHEST = 1e-3, 64.0

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (int(self.HIGHEST / self.WIDTH) + 1)))

    def add(self, value: float) -> None:
        self._counts[int(min(max(value, 0.0), self.HIGHEST) / self.WIDTH)] += 1

    def below(self, share: float) -> float:
        """The least multiple of `WIDTH` above at least this share of the values; 0 without values."""
        wanted, seen = share * sum(self._counts), 0
        for place, count in enumerate(self._counts):
            if seen >= wanted:
                return place * self.WIDTH
            seen += count
        return self.HIGHEST


def nats_per_token(score: dict[str, Any]) -> float | None:
    """score: the fields of a `Score`. None for a text without predicted tokens, or one that could not be scored.

    It is taken from the open-vocabulary total, so that a text of unknown words is not taken for a probable text.
    """
    if not score.get("tokens"):
        return None
    total: float = best_total(score["logprob"], score.get("logprob_open"))
    return -total / int(score["tokens"])


def bucket_of(score: dict[str, Any], low: float, high: float) -> Bucket | None:
    """score: the fields of a `Score`. low, high: in nats per token, where the head ends and the tail begins."""
    nats = nats_per_token(score)
    if nats is None:
        return None
    return "head" if nats < low else "middle" if nats < high else "tail"


def parse_thresholds(text: str) -> tuple[float, float]:
    """(low, high) of `bucket_of` from two perplexities, such as `60,150`. Raises `ValueError`."""
    try:
        low, high = (math.log(float(part)) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not two perplexities, e.g. 60,150") from None
    if not low <= high < math.inf:
        raise ValueError(f"{text!r}: the lower perplexity comes first")
    return low, high
