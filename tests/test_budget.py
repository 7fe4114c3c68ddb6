"""What callers share: nobody holds more than it leaves free, and what was held comes back."""

from __future__ import annotations

import threading

import pytest
from fakes import hold_of, left, memory

from filesproxy.budget import Shared
from filesproxy.errors import CallerBusy, Saturated


def taken(shared, caller, amount=1):
    """How often the caller can take this amount."""
    count = 0
    while True:
        try:
            shared.take(caller, amount)
        except (CallerBusy, Saturated):
            return count
        count += 1


@pytest.mark.parametrize("total,shares", [(256, [128, 64, 32]), (4, [2, 1, 1]), (2, [1, 1]), (1, [1, 0])])
def test_nobody_holds_more_than_it_leaves_free(total, shares):
    shared = Shared("threads", total)
    assert [taken(shared, f"team-{number}") for number in range(len(shares))] == shares


def test_two_that_always_want_more_get_a_third_each():
    shared = Shared("threads", 256)
    held = {"a": taken(shared, "a"), "b": 0}
    for _ in range(1000):  # requests end and others come, in turn
        for name in held:
            if held[name]:
                shared.give_back(name)
                held[name] -= 1
        for name in ("b", "a"):
            held[name] += taken(shared, name)
    assert 80 <= held["a"] <= 90 and 80 <= held["b"] <= 90


def test_over_the_share_is_429_and_over_everything_is_503_and_both_say_when_to_come_back():
    shared = Shared("threads", 4)
    taken(shared, "a")
    with pytest.raises(CallerBusy) as busy:
        shared.take("a")
    assert (busy.value.status, busy.value.code, busy.value.type) == (429, "caller_busy", "rate_limit_error")
    shared.take("b"), shared.take("c")
    with pytest.raises(Saturated) as full:
        shared.take("d")
    assert (full.value.status, full.value.code) == (503, "saturated")
    assert busy.value.headers == full.value.headers == {"retry-after": "1"}


def test_only_request_of_a_caller_may_be_larger_than_its_share():
    memory = Shared("memory", 100)
    memory.take("a", 40)
    memory.take("a", 40, 40)  # the same request goes on
    with pytest.raises(CallerBusy):
        memory.take("a", 1)  # another one
    with pytest.raises(Saturated):
        memory.take("a", 30, 80)
    memory.take("b", 5)
    memory.give_back("a", 80)
    memory.take("a", 1)


def test_fixed_share_holds_instead_also_where_the_number_of_threads_is_unknown():
    shared = Shared("threads", float("inf"), 3)
    assert [taken(shared, "a"), taken(shared, "b")] == [3, 3]
    assert taken(Shared("threads", 4, 4), "a") == 4


def test_unknown_number_of_threads_is_not_shared():
    shared = Shared("threads", float("inf"))
    for _ in range(10_000):
        shared.take("a")


def test_what_was_given_back_is_there_again_and_callers_are_forgotten():
    shared = Shared("threads", 8)
    for number in range(1000):
        assert taken(shared, f"caller-{number}") == 4
        for _ in range(4):
            shared.give_back(f"caller-{number}")
    assert shared._held == {}


def test_counts_are_correct_with_many_threads():
    shared = Shared("memory", 1000)

    def work(name):
        for _ in range(2000):
            try:
                shared.take(name, 100)
            except (CallerBusy, Saturated):
                continue
            shared.give_back(name, 100)

    threads = [threading.Thread(target=work, args=(name,)) for name in "aabbccdd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.take("one", 1000)  # all of it


def test_hold_gives_back_what_it_has_taken_once():
    shared = memory(10)
    hold = hold_of(shared)
    hold.take(3)
    hold.take(4)
    assert (hold.size, left(shared)) == (7, 3)
    assert hold.fits(3) and not hold.fits(4)
    hold.resize(2)
    assert (hold.size, left(shared)) == (2, 8)
    hold.resize(9)
    for _ in range(2):
        hold.release()
        assert (hold.size, left(shared)) == (0, 10)


def test_hold_that_is_refused_more_holds_nothing():
    shared = memory(10)
    one, other = hold_of(shared, "one"), hold_of(shared, "one")
    one.take(3)
    other.take(1)
    with pytest.raises(CallerBusy):
        other.take(3)
    assert (other.size, left(shared)) == (0, 7)
    with pytest.raises(Saturated):
        one.resize(11)
    assert (one.size, left(shared), shared._held) == (0, 10, {})
    one.release()
    assert left(shared) == 10


def test_requests_that_fill_everything_together_are_not_all_refused():
    """Each of 24 large answers was refused because of others that had been refused, but had not yet given back."""
    shared = memory(100)
    holds = [hold_of(shared, str(number)) for number in range(24)]
    refused = set()
    for _ in range(50):
        for hold in holds:
            if hold not in refused:
                try:
                    hold.take(2)
                except Saturated:
                    refused.add(hold)
    assert len(refused) == 23 and left(shared) == 0


def test_hold_of_nothing_is_not_remembered():
    shared = memory(10)
    hold_of(shared).take(0)
    hold_of(shared).resize(0)
    assert shared._held == {}


def test_holds_of_one_caller_are_two_requests():
    shared = memory(100)
    first, second = hold_of(shared), hold_of(shared)
    first.take(40)
    first.take(40)  # the same request goes on
    with pytest.raises(CallerBusy):
        second.take(10)
    hold_of(shared, "another team").take(10)


def test_refusal_says_what_used_up():
    shared = Shared("memory for JSON answers", 1)
    with pytest.raises(Saturated, match="out of memory for JSON answers"):
        shared.take("a", 2)
