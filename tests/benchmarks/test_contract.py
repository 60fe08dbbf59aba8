"""The service keeps to its OpenAPI document; `python -m benchmarks.contract` asks more."""

from benchmarks import contract


def test_what_the_document_allows_is_answered_and_what_it_forbids_is_refused() -> None:
    contract.main(requests=1, examples=4)
