"""Who runs when: integers alone."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.deadline import Deadline
from app.engine.scheduler import MAX_CHUNK, Scheduler
from app.engine.sequence import Request, Sequence

LOOP = asyncio.new_event_loop()
LOOP.close()


def request(*lengths: int) -> Request:
    return Request([Sequence([1] * length) for length in lengths], deadline=Deadline.after(0), loop=LOOP)


def consume(scheduler: Scheduler) -> list[int]:
    """Run one step's chunks; the length of each."""
    chunks = scheduler.prompt_chunks()
    for row, length in chunks:
        row.sequence.consumed += length
    return [length for _, length in chunks]


def test_waiting_sequences_take_free_rows_in_order_of_arrival() -> None:
    scheduler = Scheduler(max_rows=2, prompt_tokens_per_step=100)
    first, second, third = request(1), request(1), request(1)
    for one in (first, second, third):
        scheduler.add(one)
    assert [row.request for row in scheduler.admit()] == [first, second]
    assert scheduler.waiting == 1
    assert scheduler.admit() == []


def test_a_long_list_does_not_block_a_request_that_came_later() -> None:
    scheduler = Scheduler(max_rows=8, prompt_tokens_per_step=100)
    long, short = request(*[1] * 10), request(1)
    scheduler.add(long)
    scheduler.add(short)
    assert [row.request for row in scheduler.admit()] == [long, short, long]


def test_one_request_holds_a_quarter_of_the_rows_at_most() -> None:
    scheduler = Scheduler(max_rows=8, prompt_tokens_per_step=100)
    hungry, later = request(*[1] * 100), request(1)
    scheduler.add(hungry)
    assert len(scheduler.admit()) == 2
    scheduler.add(later)
    assert [row.request for row in scheduler.admit()] == [later]
    consume(scheduler)
    scheduler.drop([row for row in scheduler.running if row.sequence.finished])
    assert [row.request for row in scheduler.admit()] == [hungry, hungry]


def test_many_long_prompts_do_not_keep_a_short_one_waiting() -> None:
    scheduler = Scheduler(max_rows=400, prompt_tokens_per_step=2 * MAX_CHUNK)
    bulk, short = request(*[10_000] * 100), request(5)
    scheduler.add(bulk)
    scheduler.admit()
    consume(scheduler)
    scheduler.add(short)
    scheduler.admit()
    consume(scheduler)
    consume(scheduler)
    assert short.sequences[0].pending == 0


def test_requests_with_prompts_take_turns() -> None:
    scheduler = Scheduler(max_rows=40, prompt_tokens_per_step=MAX_CHUNK)
    requests = [request(1000) for _ in range(5)]
    for one in requests:
        scheduler.add(one)
    scheduler.admit()
    for _ in range(5):
        consume(scheduler)
    assert [one.sequences[0].consumed for one in requests] == [MAX_CHUNK] * 5


def test_rows_of_finished_sequences_are_used_again() -> None:
    scheduler = Scheduler(max_rows=1, prompt_tokens_per_step=100)
    scheduler.add(request(1, 1, 1))
    slots = []
    while not scheduler.idle:
        slots += [row.sequence.slot for row in scheduler.admit()]
        consume(scheduler)
        scheduler.drop([row for row in scheduler.running if row.sequence.finished])
    assert slots == [0, 0, 0]


def test_a_dropped_request_leaves_neither_rows_nor_waiting_sequences() -> None:
    scheduler = Scheduler(max_rows=8, prompt_tokens_per_step=100)
    dropped = request(5, 5, 5)
    scheduler.add(dropped)
    scheduler.admit()
    scheduler.drop_request(dropped)
    assert scheduler.idle
    scheduler.add(request(1, 1))
    assert len(scheduler.admit()) == 2


def test_a_long_prompt_leaves_room_for_others_in_every_step() -> None:
    scheduler = Scheduler(max_rows=8, prompt_tokens_per_step=100)
    scheduler.add(request(10_000, 3))
    scheduler.admit()
    assert consume(scheduler) == [MAX_CHUNK, 3]
    assert consume(scheduler) == [MAX_CHUNK]


def test_chunks_end_where_states_are_cached_and_the_longest_comes_first() -> None:
    scheduler = Scheduler(max_rows=8, prompt_tokens_per_step=MAX_CHUNK + 10)
    scheduler.add(request(3 * MAX_CHUNK, 20))
    scheduler.admit()
    assert consume(scheduler) == [MAX_CHUNK, 10]
    assert consume(scheduler) == [MAX_CHUNK, 10]
    scheduler.drop([row for row in scheduler.running if row.sequence.finished])
    scheduler.running[0].sequence.consumed -= 5
    assert consume(scheduler) == [5]
    assert consume(scheduler) == [MAX_CHUNK]


def test_prompts_beyond_the_budget_wait_for_the_next_step() -> None:
    scheduler = Scheduler(max_rows=8, prompt_tokens_per_step=MAX_CHUNK)
    scheduler.add(request(MAX_CHUNK, MAX_CHUNK))
    scheduler.admit()
    assert consume(scheduler) == [MAX_CHUNK]
    assert consume(scheduler) == [MAX_CHUNK]
    assert consume(scheduler) == []


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 500))
def test_every_prompt_is_consumed_once_and_every_row_comes_back(lengths: list[int], rows: int, budget: int) -> None:
    scheduler = Scheduler(rows, budget)
    one = request(*lengths)
    scheduler.add(one)
    for _ in range(10_000):
        if scheduler.idle:
            break
        scheduler.admit()
        assert len({row.sequence.slot for row in scheduler.running}) == len(scheduler.running) <= rows
        consume(scheduler)
        scheduler.drop([row for row in scheduler.running if row.sequence.finished])
    assert scheduler.idle
    assert [sequence.consumed for sequence in one.sequences] == lengths
