"""The watchdog on real sockets: a client that leaves wakes up the reader of the upstream; nobody else does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time

import pytest
from sockets import SOON, WAIT, fill_up, in_child, until

from filesproxy.watchdog import CUT_SECONDS, Watch, Watchdog

NAME = "filesproxy watchdog"


class Sleep:
    """What the watchdog does between two looks: very short here, and counted, so that a test can wait for a look."""

    def __init__(self):
        self.count = 0  # only the watchdog's own thread changes it; a lock would not survive a fork
        self._held_by = self._held = 0  # the process whose thread shall stay asleep, and the one whose thread is

    def __call__(self, seconds):
        self.count += 1
        time.sleep(0.001)
        while self._held_by == os.getpid():
            self._held = os.getpid()
            time.sleep(0.001)
        self._held = 0

    @contextlib.contextmanager
    def held(self):
        """The thread of this process is asleep: a fork finds no lock of its taken."""
        self._held_by = os.getpid()
        try:
            assert until(lambda: self._held)
            yield
        finally:
            self._held_by = 0

    def pass_looks(self, looks=3):
        """Return when the watchdog has looked so many times."""
        wanted = self.count + looks + 1  # it may be in the middle of a look
        assert until(lambda: self.count >= wanted)


def running():
    """The threads of watchdogs; other tests leave theirs to end by themselves."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


class Pairs:
    """Socket pairs that are closed after the test: the far end, and ours."""

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
def sleep():
    return Sleep()


@pytest.fixture
def watchdog(sleep):
    """A watchdog that looks every millisecond, and no other watchdog. After the test nothing of it is watched."""
    for thread in running():
        thread.join(WAIT)
    assert not running()
    made = Watchdog(sleep)
    yield made
    made._watches.clear()  # of a test that failed; its thread would otherwise run on, and the next test wait for it


def follow(watchdog, client, upstream):
    """A watch of a request that ends when its client hangs up."""
    watch = watchdog.watch(client)
    watch.upstream, watch.follows_client = upstream, True
    return watch


def reads(sock):
    """What a blocked read gives."""
    sock.settimeout(WAIT)
    return sock.recv(10)


def leave_by_closing(far):
    far.close()


def leave_by_half(far):
    far.shutdown(socket.SHUT_WR)


def leave_by_reset(far):
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()


@contextlib.contextmanager
def blocked_reader(sock):
    """A thread that is blocked in a read of this socket: the list that will hold what it got."""
    got, began = [], threading.Event()

    def read():
        began.set()
        got.append(reads(sock))

    thread = threading.Thread(target=read)
    thread.start()
    assert began.wait(WAIT)
    yield got
    thread.join(WAIT)
    assert not thread.is_alive()


@pytest.mark.parametrize("leave", [leave_by_closing, leave_by_half, leave_by_reset])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_client_that_leaves_wakes_the_reader(leave, kind, watchdog, sleep, pairs):
    far, client = pairs.tcp() if kind == "tcp" else pairs()
    _, upstream = pairs.tcp() if kind == "tcp" else pairs()
    watch = follow(watchdog, client, upstream)
    with blocked_reader(upstream) as got:
        sleep.pass_looks()
        assert not watch.has_left and not got
        leave(far)
    assert got == [b""] and watch.has_left
    watch.close()


def test_client_that_has_left_before_is_seen_too(watchdog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    far.close()
    watch = follow(watchdog, client, upstream)
    assert reads(upstream) == b"" and watch.has_left
    watch.close()


def test_upstream_sees_the_end_as_well(watchdog, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = follow(watchdog, client, upstream)
    far.close()
    assert reads(peer) == b""
    watch.close()


def test_client_that_stays_or_sends_more_is_left_alone(watchdog, sleep, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = follow(watchdog, client, upstream)
    far.sendall(b"a pipelined request")
    sleep.pass_looks()
    assert not watch.has_left
    peer.sendall(b"answer")
    assert reads(upstream) == b"answer"
    assert client.recv(100) == b"a pipelined request"  # nothing was read away
    watch.close()


def test_unread_bytes_of_a_client_do_not_hide_that_it_left(watchdog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    watch = follow(watchdog, client, upstream)
    far.sendall(b"x" * 1000)
    far.close()
    assert reads(upstream) == b"" and watch.has_left
    watch.close()


def test_only_the_call_of_the_client_that_left_ends(watchdog, sleep, pairs):
    clients, upstreams = [pairs() for _ in range(20)], [pairs() for _ in range(20)]
    watches = [follow(watchdog, client, upstream) for (_, client), (_, upstream) in zip(clients, upstreams)]
    clients[7][0].close()
    assert reads(upstreams[7][1]) == b""
    sleep.pass_looks()
    assert [number for number, watch in enumerate(watches) if watch.has_left] == [7]
    upstreams[8][0].sendall(b"on")
    assert reads(upstreams[8][1]) == b"on"
    for watch in watches:
        watch.close()


def test_watch_that_is_over_ends_nothing(watchdog, sleep, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    (_, other_client), (_, other_upstream) = pairs(), pairs()
    other = follow(watchdog, other_client, other_upstream)
    watch = follow(watchdog, client, upstream)
    watch.close()
    watch.close()
    far.close()
    sleep.pass_looks()
    assert not watch.has_left
    peer.sendall(b"still here")
    assert reads(upstream) == b"still here"
    other.close()


def test_client_socket_that_the_server_has_closed_is_not_a_client_that_left(watchdog, sleep, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    (other_far, other_client), (_, other_upstream) = pairs(), pairs()
    watch, other = follow(watchdog, client, upstream), follow(watchdog, other_client, other_upstream)
    client.close()
    sleep.pass_looks()
    assert not watch.has_left
    other_far.close()  # the watchdog still runs
    assert reads(other_upstream) == b"" and other.has_left
    watch.close()
    other.close()


def test_upstream_that_is_closed_already_does_no_harm(watchdog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    (other_far, other_client), (_, other_upstream) = pairs(), pairs()
    watch, other = follow(watchdog, client, upstream), follow(watchdog, other_client, other_upstream)
    upstream.close()
    far.close()
    assert until(lambda: watch.has_left)
    other_far.close()
    assert reads(other_upstream) == b"" and other.has_left
    watch.close()
    other.close()


def test_request_that_does_not_follow_its_client_goes_on_without_it(watchdog, sleep, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = watchdog.watch(client)
    watch.upstream = upstream
    far.close()
    sleep.pass_looks()
    assert not watch.has_left
    peer.sendall(b"on")
    assert reads(upstream) == b"on"
    watch.close()


def test_request_whose_client_no_server_shows_is_watched_all_the_same(watchdog, sleep, pairs):
    _, upstream = pairs()
    watch = follow(watchdog, None, upstream)
    sleep.pass_looks()
    assert not watch.has_left and len(running()) == 1
    watch.close()


def test_thread_runs_only_while_something_is_watched(watchdog, sleep, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    for _ in range(2):  # and begins again
        assert not running()
        first, second = follow(watchdog, client, upstream), follow(watchdog, client, upstream)
        (thread,) = running()
        first.close()
        sleep.pass_looks()
        assert thread.is_alive()
        second.close()
        thread.join(WAIT)
        assert not thread.is_alive()


def test_watch_that_follows_the_last_one_is_never_missed(watchdog, sleep, pairs):
    """The thread is about to end, or has just ended: in either case somebody looks."""
    for turn in range(200):
        (far, client), (_, upstream) = pairs(), pairs()
        follow(watchdog, client, upstream).close()
        time.sleep(turn % 20 * 0.0001)  # the subject is a race: up to two of this watchdog's intervals
        watch = follow(watchdog, client, upstream)
        far.close()
        assert reads(upstream) == b"" and watch.has_left, turn
        watch.close()


def test_many_threads_may_watch_at_the_same_time(watchdog, pairs):
    seen = []

    def call():
        (far, client), (_, upstream) = pairs(), pairs()
        watch = follow(watchdog, client, upstream)
        far.close()
        seen.append(reads(upstream))
        watch.close()

    threads = [threading.Thread(target=call) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert seen == [b""] * 30
    assert until(lambda: not running())


def test_two_watchdogs_do_not_know_of_each_other(watchdog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    other = Watchdog(Sleep())
    watch, its_watch = follow(watchdog, client, upstream), follow(other, client, upstream)
    watch.close()
    far.close()
    with contextlib.closing(its_watch):
        assert until(lambda: its_watch.has_left) and not watch.has_left


def test_request_that_ends_while_its_client_is_checked_has_not_lost_it(watchdog, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    far.close()

    class Ending:
        """A client whose request ends when the watchdog asks for its descriptor, so before it polls."""

        def fileno(self):
            watch.close()
            return client.fileno()

    watch = follow(watchdog, None, upstream)
    watch.client = Ending()
    assert until(lambda: not running())
    assert not watch.has_left


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_process_has_a_watchdog_of_its_own(watchdog, sleep, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    watch = follow(watchdog, client, upstream)
    assert len(running()) == 1

    def check():
        (far, its_client), (_, its_upstream) = pairs(), pairs()
        its_watch = follow(watchdog, its_client, its_upstream)
        far.close()
        return reads(its_upstream) == b"" and its_watch.has_left and not watch.has_left

    with sleep.held():
        assert in_child(check)
    sleep.pass_looks()
    assert len(running()) == 1 and not watch.has_left
    watch.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_watchdog_of_the_parent_goes_on_after_a_fork(watchdog, sleep, pairs):
    (far, client), (_, upstream) = pairs(), pairs()
    watch = follow(watchdog, client, upstream)
    with sleep.held():
        assert in_child(lambda: True)
    far.close()
    assert reads(upstream) == b"" and watch.has_left
    watch.close()


def test_application_looks_in_intervals_of_real_time(pairs):
    """Without a clock of the test's own: one interval, in the watchdog as applications make it."""
    (far, client), (_, upstream) = pairs(), pairs()
    watch = follow(Watchdog(), client, upstream)
    started = time.monotonic()
    far.close()
    assert reads(upstream) == b"" and watch.has_left
    assert time.monotonic() - started < SOON
    watch.close()


# Phases that take too long. The clock is the test's: `look` is told what time it is.


def overdue(client=None, upstream=None, seconds=60, moved=lambda: 0, rate=1000):
    """A watch of a request whose phase has just taken too long."""
    watch = phase(client, upstream, seconds, moved, rate)
    look(watch, after=seconds + 1)
    assert watch.is_overdue
    return watch


def phase(client=None, upstream=None, seconds=60, moved=lambda: 0, rate=1000):
    watch = Watch(client=client)
    watch.upstream, watch.min_rate = upstream, rate
    watch.allow(seconds, moved)
    return watch


def look(watch, after):
    """Look at a watch so many seconds from now."""
    watch.check(time.monotonic() + after)


def test_phase_that_takes_too_long_wakes_a_reader_of_either_end(pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    watch = phase(client, upstream)
    with blocked_reader(client) as from_client, blocked_reader(upstream) as from_upstream:
        look(watch, after=59)
        assert not watch.is_overdue and not from_client and not from_upstream
        look(watch, after=61)
    assert (from_client, from_upstream) == ([b""], [b""])
    assert watch.is_overdue and not watch.has_left


def test_watchdog_ends_a_phase_that_takes_too_long(watchdog, pairs):
    (_, client), (_, upstream) = pairs(), pairs()
    watch = watchdog.watch(client)
    watch.upstream = upstream
    watch.allow(0.05)  # real time: that the watchdog asks the clock is the subject
    assert (reads(client), reads(upstream)) == (b"", b"") and watch.is_overdue
    watch.close()


def test_client_that_was_too_slow_can_still_be_answered(pairs):
    far, client = pairs()
    overdue(client)
    assert reads(client) == b""
    client.sendall(b"408")
    assert far.recv(10) == b"408"


@pytest.mark.parametrize("takes_all", [True, False])
def test_whose_fault_an_overdue_upload_is_shows_in_whether_the_upstream_would_take_more(takes_all, pairs):
    _, upstream = pairs()
    upstream.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while not takes_all:
            upstream.send(bytes(65536))
    assert overdue(upstream=upstream).upstream_took_all is takes_all


def test_client_that_reads_an_answer_too_slowly_is_cut_off(pairs):
    far, client = pairs()
    watch = phase(client)
    watch.is_answering = True
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(b"x" * 100_000)
    look(watch, after=61)
    look(watch, after=61 + CUT_SECONDS * 0.9)
    with pytest.raises(BlockingIOError):  # so long it has, to end by itself
        client.send(b"x")
    look(watch, after=61 + CUT_SECONDS * 1.1)
    with pytest.raises(BrokenPipeError):
        client.send(b"x")


def test_bytes_that_move_give_more_time_and_those_of_an_earlier_phase_none():
    moved = [600_000]
    watch = phase(seconds=60, moved=lambda: moved[0], rate=1000)
    look(watch, after=59)
    moved[0] += 700_000  # worth 700 seconds
    look(watch, after=61 + 650)
    assert not watch.is_overdue
    look(watch, after=61 + 700)
    assert watch.is_overdue


def test_next_phase_has_its_own_time():
    watch = phase(seconds=60)
    watch.allow(600)
    look(watch, after=599)
    assert not watch.is_overdue
    look(watch, after=601)
    assert watch.is_overdue


def test_watch_with_a_limit_does_not_end_for_a_client_that_it_does_not_follow(watchdog, sleep, pairs):
    (far, client), (peer, upstream) = pairs(), pairs()
    watch = watchdog.watch(client)
    watch.upstream = upstream
    watch.allow(60)
    far.close()
    sleep.pass_looks()
    assert not watch.has_left
    peer.sendall(b"on")
    assert reads(upstream) == b"on"
    watch.close()


def test_answer_that_ends_itself_has_time_to_before_its_client_is_cut_off(pairs):
    """Both ends were shut together, so that the event that says so never left."""
    (far, client), (_, upstream) = pairs.tcp(), pairs()
    watch = phase(client, upstream)
    watch.is_answering = True
    look(watch, after=61)
    assert reads(upstream) == b""
    client.sendall(b"data: error")
    client.close()
    assert (far.recv(100), far.recv(100)) == (b"data: error", b"")


def test_answer_that_cannot_say_that_it_is_cut_ends_in_a_reset(pairs):
    (far, client), (_, upstream) = pairs.tcp(), pairs()
    watch = phase(client, upstream)
    watch.is_answering = watch.cuts_by_reset = True
    look(watch, after=61)
    assert reads(upstream) == b""
    client.close()
    with pytest.raises(ConnectionResetError):
        far.recv(100)


def how_it_ends(far):
    """Read to the end of a connection: "fin" or "reset"."""
    try:
        while far.recv(1 << 20):
            pass
    except ConnectionResetError:
        return "reset"
    return "fin"


def test_slow_reader_never_sees_a_normal_end_of_an_answer_that_cannot_say_that_it_is_cut(pairs):
    """Its thread was woken by a shutdown, which is a normal end (FIN) for a client that reads on just then."""
    far, client = pairs.tcp()
    watch = phase(client)
    watch.is_answering = watch.cuts_by_reset = True
    ends = []
    reader = threading.Thread(target=lambda: ends.append(how_it_ends(far)))

    def send():
        with pytest.raises(OSError):
            client.sendall(bytes(64 << 20))
        reader.start()
        reader.join(0.1)  # the thread takes its time
        watch.cut()

    sender = threading.Thread(target=send)
    sender.start()
    fill_up(far)
    look(watch, after=61)
    look(watch, after=61 + CUT_SECONDS * 1.1)
    sender.join(WAIT)
    reader.join(WAIT)
    assert ends == ["reset"]


@pytest.mark.parametrize("is_complete", [True, False])
def test_killed_process_resets_an_answer_without_a_length_and_a_complete_one_ends_normally(is_complete, pairs):
    far, client = pairs.tcp()
    child = os.fork()
    if child == 0:
        watch = Watch(client=client)
        watch.begin_unmeasured()
        client.sendall(b"half")
        if is_complete:
            watch.complete()
        os.kill(os.getpid(), signal.SIGKILL)
    client.close()
    os.waitpid(child, 0)
    assert far.recv(4) == b"half"
    assert how_it_ends(far) == ("fin" if is_complete else "reset")


def test_change_of_phase_is_never_a_false_timeout():
    """The end of one phase was read with the count of the next."""
    watch, over, interval = Watch(), threading.Event(), sys.getswitchinterval()
    watch.min_rate = 1

    def look():
        while not over.is_set():
            watch.check(time.monotonic())

    looker = threading.Thread(target=look)
    sys.setswitchinterval(1e-6)
    try:
        looker.start()
        for _ in range(5_000):
            watch.allow(1000, lambda: 10**9)
            watch.allow(1000)
    finally:
        over.set()
        looker.join()
        sys.setswitchinterval(interval)
    assert not watch.is_overdue


def test_watchdog_whose_thread_did_not_start_tries_again(watchdog, pairs, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    (far, client), (_, upstream) = pairs(), pairs()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            watchdog.watch(client)
    watch = follow(watchdog, client, upstream)
    far.close()
    assert reads(upstream) == b"" and watch.has_left
    watch.close()


def test_socket_that_fails_in_its_own_way_does_not_end_the_watchdog(watchdog, sleep, pairs):
    class Odd:
        def fileno(self):
            raise ZeroDivisionError

    (far, client), (_, upstream) = pairs(), pairs()
    odd = follow(watchdog, Odd(), None)
    sleep.pass_looks()
    odd.close()
    watch = follow(watchdog, client, upstream)
    far.close()
    assert reads(upstream) == b"" and watch.has_left
    watch.close()


class WithoutDescriptor:
    """A client's socket of a server's own class, which fails."""

    def fileno(self):
        raise ZeroDivisionError


def failing_in_the_poll(watchdog):
    return follow(watchdog, WithoutDescriptor(), None)


def failing_in_the_check(watchdog):
    watch = watchdog.watch(None)
    watch.allow(60, [0, 0].pop)  # one for the beginning and one for a look; from then on it raises
    return watch


@pytest.mark.parametrize("fail", [failing_in_the_poll, failing_in_the_check])
def test_watch_that_fails_does_not_keep_the_others_from_being_checked(fail, watchdog, sleep, pairs):
    """As long as it lived, no other request was ended."""
    (far, client), (_, upstream), (_, slow) = pairs(), pairs(), pairs()
    failing = [fail(watchdog) for _ in range(20)]  # in a set: some are looked at before the others and some after them
    sleep.pass_looks()
    left, overdue = follow(watchdog, client, upstream), watchdog.watch(None)
    overdue.upstream = slow
    overdue.allow(0)
    far.close()
    assert (reads(upstream), reads(slow)) == (b"", b"") and left.has_left and overdue.is_overdue
    for watch in [*failing, left, overdue]:
        watch.close()


def become_overdue(watch):
    watch.check(float("inf"))


@pytest.mark.parametrize("end", [become_overdue, Watch.leave])
def test_upstream_of_a_request_that_was_ended_before_is_shut_down_at_once(end, pairs):
    """A request is woken once, perhaps before it has a socket: it then went on over one that nobody watched."""
    peer, upstream = pairs()
    watch = phase()
    end(watch)
    watch.hold_upstream(upstream)
    assert (reads(peer), reads(upstream)) == (b"", b"")
    assert not watch.release_upstream()


def test_client_that_was_cut_off_is_not_one_that_left(watchdog, sleep, pairs):
    """The socket that takes the client's place is not connected, which looked like a client that had left."""
    (far, client), (_, upstream) = pairs.tcp(), pairs()
    watch = follow(watchdog, client, upstream)
    watch.cuts_by_reset = True
    watch.cut()
    with pytest.raises(ConnectionResetError):
        reads(far)
    sleep.pass_looks()
    assert not watch.has_left
    watch.close()


def test_watch_of_nobody_has_no_limit_and_closes():
    watch = Watch()
    watch.transfer()
    look(watch, after=1e9)
    watch.close()
    assert not watch.is_overdue


# The client's body


class Body:
    """A watched connection at an imagined time: bytes really arrive on it, and seconds pass as the test says."""

    def __init__(self, pair, patience=15):
        self.far, self.near = pair
        self.watch = Watch(client=self.near)
        self.is_awaited = True
        self.watch.expect_body(patience, lambda: self.is_awaited)
        self.now = time.monotonic()

    def seconds_until_overdue(self, size, at_most=600):
        """Let this many bytes arrive each second; how long that goes well."""
        for second in range(at_most):
            if self.watch.is_overdue:
                return second
            if size:
                self.far.sendall(bytes(size))
                self.near.recv(size, socket.MSG_WAITALL)
            self.now += 1
            self.watch.check(self.now)
        return at_most


@pytest.mark.parametrize("size", [0, 1, 100])
def test_body_that_stops_or_drips_is_overdue_after_its_patience(size, pairs):
    body = Body(pairs.tcp())
    assert 15 <= body.seconds_until_overdue(size) <= 17
    assert body.near.recv(1) == b""  # a read that waits has been woken


def test_slow_body_that_stalls_now_and_then_is_waited_for(pairs):
    body = Body(pairs.tcp())
    for _ in range(20):
        assert body.seconds_until_overdue(10_000, at_most=3) == 3  # a phone
        assert body.seconds_until_overdue(0, at_most=14) == 14  # in a tunnel
    body.seconds_until_overdue(10_000, at_most=3)
    assert 14 <= body.seconds_until_overdue(0) <= 17


def test_patience_cannot_be_saved_up(pairs):
    body = Body(pairs.tcp())
    body.seconds_until_overdue(1 << 20, at_most=20)
    assert 15 <= body.seconds_until_overdue(0) <= 17


def test_time_in_which_nobody_reads_the_body_does_not_count(pairs):
    body = Body(pairs.tcp())
    body.is_awaited = False  # the upstream is slow
    assert body.seconds_until_overdue(0, at_most=600) == 600
    body.is_awaited = True
    assert 14 <= body.seconds_until_overdue(0) <= 17


def test_body_on_a_socket_that_counts_nothing_is_not_judged(pairs):
    assert Body(pairs()).seconds_until_overdue(0, at_most=600) == 600
    assert Body((None, None)).seconds_until_overdue(0, at_most=600) == 600


def test_watch_that_is_closed_holds_nothing_of_its_request(pairs):
    body = Body(pairs.tcp())
    body.watch.close()
    assert body.watch._is_awaited is None
