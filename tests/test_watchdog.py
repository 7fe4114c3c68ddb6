"""The watchdog on real sockets: a client that leaves wakes up whoever reads from the upstream; nobody else does."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

import pytest
from sockets import in_child

from filesproxy.watchdog import INTERVAL_SECONDS, Watch, Watchdog

NAME = "filesproxy watchdog"


def dogs():
    """How many watchdogs run; other tests leave theirs to end by themselves."""
    return sum(thread.name == NAME for thread in threading.enumerate())


def waits_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class Pairs:
    """Socket pairs that are closed behind the test: the far end, and ours."""

    def __init__(self):
        self._open = []

    def __call__(self):
        pair = socket.socketpair()
        self._open += pair
        return pair

    def tcp(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            far = socket.create_connection(server.getsockname())
            near, _ = server.accept()
        self._open += (far, near)
        return far, near

    def close(self):
        for each in self._open:
            each.close()


@pytest.fixture
def pairs():
    made = Pairs()
    yield made
    made.close()


@pytest.fixture
def dog():
    assert waits_until(lambda: dogs() == 0)
    return Watchdog()


def follow(dog, client, upstream):
    """A watch of a request that ends when its client hangs up."""
    watch = dog.watch(client)
    watch.upstream, watch.follows_client = upstream, True
    return watch


def reads(upstream, seconds=5.0):
    """What a blocked read of the upstream gives, and after how many seconds."""
    upstream.settimeout(seconds)
    started = time.monotonic()
    return upstream.recv(10), time.monotonic() - started


def leave_by_closing(far):
    far.close()


def leave_by_half(far):
    far.shutdown(socket.SHUT_WR)


def leave_by_reset(far):
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()


@pytest.mark.parametrize("leave", [leave_by_closing, leave_by_half, leave_by_reset])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_client_that_leaves_wakes_the_reader_within_a_second(leave, kind, dog, pairs):
    far, client = pairs.tcp() if kind == "tcp" else pairs()
    _, upstream = pairs.tcp() if kind == "tcp" else pairs()
    watch = follow(dog, client, upstream)
    assert not watch.has_left
    threading.Timer(0.1, leave, [far]).start()
    data, seconds = reads(upstream)
    assert data == b"" and watch.has_left
    assert 0.05 < seconds < 1
    watch.close()


def test_client_that_has_left_before_is_seen_too(dog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    far.close()
    watch = follow(dog, client, upstream)
    assert reads(upstream)[0] == b"" and watch.has_left
    watch.close()


def test_upstream_sees_the_end_as_well(dog, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = follow(dog, client, upstream)
    far.close()
    assert reads(peer)[0] == b""
    watch.close()


def test_client_that_stays_or_says_more_is_left_alone(dog, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = follow(dog, client, upstream)
    far.sendall(b"a pipelined request")
    time.sleep(INTERVAL_SECONDS * 3)
    assert not watch.has_left
    peer.sendall(b"answer")
    assert reads(upstream)[0] == b"answer"
    assert client.recv(100) == b"a pipelined request"  # nothing was read away
    watch.close()


def test_unread_bytes_of_a_client_do_not_hide_that_it_left(dog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    watch = follow(dog, client, upstream)
    far.sendall(b"x" * 1000)
    far.close()
    data, seconds = reads(upstream)
    assert data == b"" and seconds < 1
    watch.close()


def test_only_the_call_of_the_client_that_left_ends(dog, pairs):
    clients, upstreams = [pairs() for _ in range(20)], [pairs() for _ in range(20)]
    watches = [follow(dog, client, upstream) for (_, client), (_, upstream) in zip(clients, upstreams)]
    clients[7][0].close()
    assert reads(upstreams[7][1])[0] == b""
    time.sleep(INTERVAL_SECONDS * 2)
    assert [number for number, watch in enumerate(watches) if watch.has_left] == [7]
    upstreams[8][0].sendall(b"on")
    assert reads(upstreams[8][1])[0] == b"on"
    for watch in watches:
        watch.close()


def test_watch_that_is_over_ends_nothing(dog, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    (_, other_client), (_, other_upstream) = pairs(), pairs()
    other = follow(dog, other_client, other_upstream)
    watch = follow(dog, client, upstream)
    watch.close()
    watch.close()
    far.close()
    time.sleep(INTERVAL_SECONDS * 3)
    assert not watch.has_left
    peer.sendall(b"still here")
    assert reads(upstream)[0] == b"still here"
    other.close()


def test_client_that_the_server_has_closed_is_no_client_that_left(dog, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    (other_far, other_client), (_, other_upstream) = pairs(), pairs()
    watch, other = follow(dog, client, upstream), follow(dog, other_client, other_upstream)
    client.close()
    time.sleep(INTERVAL_SECONDS * 3)
    assert not watch.has_left
    other_far.close()  # the dog is still awake
    assert reads(other_upstream)[0] == b"" and other.has_left
    watch.close()
    other.close()


def test_upstream_that_is_closed_already_does_no_harm(dog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    (other_far, other_client), (_, other_upstream) = pairs(), pairs()
    watch, other = follow(dog, client, upstream), follow(dog, other_client, other_upstream)
    upstream.close()
    far.close()
    assert waits_until(lambda: watch.has_left)
    other_far.close()
    assert reads(other_upstream)[0] == b"" and other.has_left
    watch.close()
    other.close()


def test_request_that_does_not_follow_its_client_goes_on_without_it(dog, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = dog.watch(client)
    watch.upstream = upstream
    far.close()
    time.sleep(INTERVAL_SECONDS * 3)
    assert not watch.has_left
    peer.sendall(b"on")
    assert reads(upstream)[0] == b"on"
    watch.close()


def test_request_whose_client_no_server_shows_is_watched_all_the_same(dog, pairs):
    _, upstream = pairs()
    watch = follow(dog, None, upstream)
    time.sleep(INTERVAL_SECONDS * 3)
    assert not watch.has_left and dogs() == 1
    watch.close()


def test_thread_runs_only_while_something_is_follow(dog, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    assert dogs() == 0
    for _ in range(2):  # and begins again
        first, second = follow(dog, client, upstream), follow(dog, client, upstream)
        assert dogs() == 1
        first.close()
        time.sleep(INTERVAL_SECONDS * 2)
        assert dogs() == 1
        second.close()
        assert waits_until(lambda: dogs() == 0, 2)


def test_watch_right_behind_the_last_one_is_never_missed(dog, pairs):
    """The thread is about to end, or has just ended: whichever, somebody looks."""
    for pause in (0, INTERVAL_SECONDS * 0.9, INTERVAL_SECONDS, INTERVAL_SECONDS * 1.1):
        (far, client), (_, upstream) = pairs(), pairs()
        follow(dog, client, upstream).close()
        time.sleep(pause)
        watch = follow(dog, client, upstream)
        far.close()
        assert reads(upstream, 2)[0] == b"" and watch.has_left
        watch.close()


def test_many_threads_may_watch_at_once(dog, pairs):
    seen = []

    def call():
        (far, client), (_, upstream) = pairs(), pairs()
        watch = follow(dog, client, upstream)
        far.close()
        seen.append(reads(upstream)[0])
        watch.close()

    threads = [threading.Thread(target=call) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [b""] * 30
    assert waits_until(lambda: dogs() == 0, 2)


def test_two_dogs_do_not_know_of_each_other(dog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    other = Watchdog()
    watch, its_watch = follow(dog, client, upstream), follow(other, client, upstream)
    watch.close()
    far.close()
    assert waits_until(lambda: its_watch.has_left) and not watch.has_left
    its_watch.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_process_has_a_dog_of_its_own(dog, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    watch = follow(dog, client, upstream)
    assert dogs() == 1

    def check():
        (far, its_client), (_, its_upstream) = pairs(), pairs()
        its_watch = follow(dog, its_client, its_upstream)
        far.close()
        return reads(its_upstream, 3)[0] == b"" and its_watch.has_left and not watch.has_left

    assert in_child(check)
    time.sleep(INTERVAL_SECONDS * 2)
    assert dogs() == 1 and not watch.has_left
    watch.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_dog_of_the_parent_goes_on_behind_a_fork(dog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    watch = follow(dog, client, upstream)
    assert in_child(lambda: True)
    far.close()
    assert reads(upstream)[0] == b"" and watch.has_left
    watch.close()


# Phases that take too long


def overdue(dog, client=None, upstream=None, seconds=0.1, moved=lambda: 0, rate=1000):
    watch = dog.watch(client)
    watch.upstream, watch.min_rate = upstream, rate
    watch.allow(seconds, moved)
    return watch


def test_phase_that_takes_too_long_wakes_whoever_reads_from_either_end(dog, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    watch = overdue(dog, client, upstream)
    data, seconds = reads(client)
    assert (data, reads(upstream)[0]) == (b"", b"") and 0.05 < seconds < 1
    assert watch.is_overdue and not watch.has_left
    watch.close()


def test_client_that_was_too_slow_can_still_be_answered(dog, pairs):
    far, client = pairs()
    watch = overdue(dog, client)
    assert reads(client)[0] == b""
    client.sendall(b"408")
    assert far.recv(10) == b"408"
    watch.close()


@pytest.mark.parametrize("takes_all", [True, False])
def test_whose_fault_an_overdue_upload_is_shows_in_whether_the_upstream_would_take_more(takes_all, dog, pairs):
    _, upstream = pairs()
    upstream.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while not takes_all:
            upstream.send(bytes(65536))
    watch = overdue(dog, upstream=upstream)
    assert waits_until(lambda: watch.is_overdue) and watch.upstream_took_all is takes_all
    watch.close()


def test_client_that_reads_an_answer_too_slowly_is_cut_off(dog, pairs):
    far, client = pairs()
    watch = dog.watch(client)
    watch.is_answering = True
    watch.allow(0.1)
    client.settimeout(5)
    with pytest.raises(BrokenPipeError):
        while True:
            client.send(b"x" * 100_000)
    assert watch.is_overdue
    watch.close()


def test_bytes_that_move_give_more_time_and_those_of_an_earlier_phase_none(dog, pairs):
    far, client = pairs()
    moved = [600]
    watch = overdue(dog, client, seconds=0.1, moved=lambda: moved[0], rate=1000)
    moved[0] += 700
    time.sleep(0.5)
    assert not watch.is_overdue
    assert waits_until(lambda: watch.is_overdue, 1)
    watch.close()


def test_next_phase_has_its_own_time(dog, pairs):
    _, client = pairs()
    watch = overdue(dog, client, seconds=0.3)
    time.sleep(0.15)
    watch.allow(60)
    time.sleep(INTERVAL_SECONDS * 2 + 0.2)
    assert not watch.is_overdue
    watch.close()


def test_client_that_hangs_up_is_no_matter_of_a_watch_that_does_not_follow_it(dog, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = overdue(dog, client, upstream, seconds=60)
    far.close()
    time.sleep(INTERVAL_SECONDS * 2)
    assert not watch.has_left
    peer.sendall(b"on")
    assert reads(upstream)[0] == b"on"
    watch.close()


def test_answer_that_ends_itself_has_time_to_before_its_client_is_cut_off(dog, pairs):
    """Both ends were shut at once, so that the event that says so never left."""
    (far, client), (_, upstream) = pairs.tcp(), pairs()
    watch = overdue(dog, client, upstream)
    watch.is_answering = True
    assert reads(upstream)[0] == b""
    client.sendall(b"data: error")
    watch.close()
    client.close()
    assert (far.recv(100), far.recv(100)) == (b"data: error", b"")


def test_answer_that_nothing_can_say_is_cut_ends_in_a_reset(dog, pairs):
    (far, client), (_, upstream) = pairs.tcp(), pairs()
    watch = overdue(dog, client, upstream)
    watch.is_answering = watch.cuts_by_reset = True
    assert reads(upstream)[0] == b""
    watch.close()
    client.close()
    with pytest.raises(ConnectionResetError):
        far.recv(100)


def test_change_of_phase_is_never_a_false_timeout():
    """The end of one phase was read with the count of the next."""
    watch, over, interval = Watch(), threading.Event(), sys.getswitchinterval()
    watch.min_rate = 1

    def look():
        while not over.is_set():
            watch.look(time.monotonic())

    looker = threading.Thread(target=look)
    sys.setswitchinterval(1e-6)
    try:
        looker.start()
        for _ in range(20_000):
            watch.allow(1000, lambda: 10**9)
            watch.allow(1000)
    finally:
        over.set()
        looker.join()
        sys.setswitchinterval(interval)
    assert not watch.is_overdue


def test_dog_whose_thread_did_not_start_tries_again(dog, pairs, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    (far, client), (_, upstream) = pairs(), pairs()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            dog.watch(client)
    watch = follow(dog, client, upstream)
    far.close()
    assert reads(upstream)[0] == b"" and watch.has_left
    watch.close()


def test_socket_that_fails_in_its_own_way_does_not_end_the_dog(dog, pairs):
    class Odd:
        def fileno(self):
            raise ZeroDivisionError

    (far, client), (_, upstream) = pairs(), pairs()
    odd = follow(dog, Odd(), None)
    time.sleep(INTERVAL_SECONDS * 1.5)
    odd.close()
    watch = follow(dog, client, upstream)
    far.close()
    assert reads(upstream)[0] == b"" and watch.has_left
    watch.close()


def test_watch_of_nobody_holds_no_limit_and_closes():
    watch = Watch()
    watch.transfer()
    watch.look(time.monotonic() + 1e9)
    watch.close()
    assert not watch.is_overdue
