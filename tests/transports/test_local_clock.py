"""What a sweep believes of the clock: hours that have passed, but not a leap."""

from __future__ import annotations

import pytest

from filesproxy.transports.local.clock import HOLD_SECONDS, TOLERANCE_SECONDS, Now, judge, look, since_boot

HOUR, DAY = 3600, 86400
WALL, TICKS = 1_700_000_000, 5000


def seen(*steps, boot="a"):
    """What is believed after these steps of (wall, ticks), from a clock that had proven itself."""
    wall, ticks = WALL, TICKS
    sight = judge(None, Now(wall, boot, ticks))
    wall, ticks = wall + HOLD_SECONDS, ticks + HOLD_SECONDS
    sight = judge(sight, Now(wall, boot, ticks))
    assert sight.proven == wall
    for more_wall, more_ticks in steps:
        wall, ticks = wall + more_wall, ticks + more_ticks
        sight = judge(sight, Now(wall, boot, ticks))
    return sight


def test_new_index_believes_nothing_until_the_clock_has_run_for_six_hours():
    first = judge(None, Now(WALL, "a", TICKS))
    assert first.proven == 0
    assert judge(first, Now(WALL + HOUR, "a", TICKS + HOUR)).proven == HOUR
    assert judge(first, Now(WALL + HOLD_SECONDS, "a", TICKS + HOLD_SECONDS)).proven == WALL + HOLD_SECONDS


@pytest.mark.parametrize("seconds", [1, 600, DAY, 400 * DAY])
def test_time_that_passed_is_believed_however_long_it_was(seconds):
    sight = seen((seconds, seconds))
    assert sight.proven == sight.wall


@pytest.mark.parametrize("leap", [TOLERANCE_SECONDS, -TOLERANCE_SECONDS])
def test_correction_of_the_clock_is_no_leap(leap):
    sight = seen((600 + leap, 600))
    assert sight.proven == sight.wall


def test_clock_that_leaps_ahead_is_followed_from_where_it_was():
    """A start with a clock that was sixty days ahead removed every file that ever expires."""
    before = seen().wall
    assert seen((60 * DAY, 5)).proven == before + 5
    assert seen((60 * DAY, 0), (HOUR, HOUR)).proven == before + HOUR


def test_clock_that_is_set_right_again_is_as_if_nothing_had_been():
    sight = seen((60 * DAY, 0), (HOUR, HOUR), (-60 * DAY, 0))
    assert sight.proven == sight.wall == seen((HOUR, HOUR)).wall


def test_leap_is_believed_when_the_clock_has_run_on_for_six_hours():
    assert seen((60 * DAY, 0), (HOLD_SECONDS - 1, HOLD_SECONDS - 1)).ahead == 60 * DAY
    assert seen((60 * DAY, 0), (HOLD_SECONDS, HOLD_SECONDS)).ahead == 0


def test_second_leap_is_added_and_the_wait_begins_again():
    assert seen((60 * DAY, 0), (HOUR, HOUR), (DAY, 0), (HOUR, HOUR)).ahead == 61 * DAY
    waited = seen((60 * DAY, 0), (HOUR, HOUR), (DAY, 0), (HOLD_SECONDS - HOUR, HOLD_SECONDS - HOUR))
    assert waited.ahead == 61 * DAY


def test_clock_that_goes_back_is_believed():
    sight = seen((-DAY, 0))
    assert sight.proven == sight.wall


@pytest.mark.parametrize("ticks", [10, TICKS * 100], ids=["fewer", "more"])
def test_time_between_two_boots_is_not_proven_by_the_counter(ticks):
    last = seen()
    sight = judge(last, Now(last.wall + DAY, "b", ticks))
    assert sight.proven == last.wall
    later = judge(sight, Now(sight.wall + HOLD_SECONDS, "b", ticks + HOLD_SECONDS))
    assert later.proven == later.wall


def test_counter_that_went_back_is_another_boot_where_boots_have_no_name():
    last = seen(boot="")
    assert judge(last, Now(last.wall + DAY, "", 10)).proven == last.wall


def test_reboot_that_takes_a_moment_does_not_end_the_doubt():
    leapt = seen((60 * DAY, 0))
    rebooted = judge(leapt, Now(leapt.wall + 30, "b", 5))
    assert rebooted.ahead == 60 * DAY
    assert judge(rebooted, Now(leapt.wall + 30 + HOUR, "b", 5 + HOUR)).ahead == 60 * DAY


def test_look_reads_this_boot():
    now = look(12.9, since_boot())
    assert now.wall == 12 and now.boot and now.ticks == pytest.approx(since_boot(), abs=5)
