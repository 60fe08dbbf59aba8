"""POST /rescore: n-best lists in their new order."""

from typing import Any

import httpx
import pytest

LISTS = [
    {
        "utt": "a",
        "ref": "The cat sat",
        "hyps": [{"text": "The fish sat", "score": -1.0}, {"text": "The cat sat", "score": -1.5}],
    },
    {"utt": "b", "ref": "The pear", "hyps": [{"text": "The pear", "score": -2.0}, {"text": "pear", "score": -2.0}]},
]


def rescored(client: httpx.Client, **body: Any) -> Any:
    response = client.post("/rescore", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_totals_are_weighted_sums_best_first(client: httpx.Client) -> None:
    hypotheses = LISTS[0]["hyps"]
    texts = [one["text"] for one in hypotheses]  # type: ignore[index]
    scores = client.post("/score", json={"text": texts}).json()["scores"]
    answer = rescored(client, hypotheses=hypotheses, weight=0.3, length_weight=0.7)
    totals = [-1.0 + 0.3 * scores[0]["logprob"] + 0.7 * 3, -1.5 + 0.3 * scores[1]["logprob"] + 0.7 * 3]
    assert [one["total"] for one in answer["hypotheses"]] == sorted(totals, reverse=True)
    assert answer["best"] == answer["hypotheses"][0]["index"] == totals.index(max(totals))
    assert {one["index"]: one["logprob"] for one in answer["hypotheses"]} == dict(
        enumerate(s["logprob"] for s in scores)
    )


def test_equals_keep_the_order_of_the_request(client: httpx.Client) -> None:
    hypotheses = [{"text": text, "score": 0.0} for text in ("pear", "The", "cat")]
    assert [one["index"] for one in rescored(client, hypotheses=hypotheses, weight=0)["hypotheses"]] == [0, 1, 2]


def test_the_model_reads_lower_case_and_the_answer_has_the_text_as_it_was(client: httpx.Client) -> None:
    upper = rescored(client, hypotheses=[{"text": "CAT SAT", "score": 0}], lowercase=True)["hypotheses"][0]
    assert upper["text"] == "CAT SAT"
    assert (
        upper["logprob"] == rescored(client, hypotheses=[{"text": "cat sat", "score": 0}])["hypotheses"][0]["logprob"]
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"hypotheses": []}, "hypotheses"),
        ({"hypotheses": [{"text": "a"}]}, "hypotheses.0.score"),
        ({"hypotheses": [{"text": "a", "score": 1, "am": 2}]}, "hypotheses.0.am"),
        ({"hypotheses": [{"text": "a", "score": 0}] * 1025}, "hypotheses"),
        ({"hypotheses": [{"text": "a", "score": 0}], "weight": "much"}, "weight"),
    ],
)
def test_wrong_values_are_named(client: httpx.Client, body: dict[str, Any], param: str) -> None:
    response = client.post("/rescore", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param
