"""Batches run at once, results in order."""

import asyncio
from collections.abc import Iterator

import pytest

from app.files.lines import InputError
from app.files.pipeline import in_order
from app.files.texts import Item


def test_a_reading_that_fails_ends_the_command() -> None:
    def batches() -> Iterator[list[Item]]:
        yield [Item("a", {})]
        raise OSError("the disk is gone")

    async def collect() -> None:
        async for _ in in_order(batches(), _nothing):
            pass

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(collect())


def test_results_keep_the_order_of_batches_and_an_error_comes_after_them() -> None:
    def batches() -> Iterator[list[Item]]:
        for number in range(20):
            yield [Item(str(number), {})]
        raise InputError("line 21")

    async def work(batch: list[Item]) -> str:
        for _ in range(20 - int(batch[0].text)):  # later ones are ready first
            await asyncio.sleep(0)
        return batch[0].text

    found = []

    async def collect() -> None:
        async for _, result in in_order(batches(), work):
            found.append(result)

    with pytest.raises(InputError, match="line 21"):
        asyncio.run(collect())
    assert found == [str(number) for number in range(20)]


async def _nothing(_: list[Item]) -> None:
    pass
