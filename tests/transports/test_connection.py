"""One connection to an upstream: it sends all or says that it did not, in its time, and never waits without a limit."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import random
import socket
import struct
import threading
import time

import pytest
from sockets import SOON, WAIT, answer, fill_up, reset, until

from filesproxy.errors import UpstreamError
from filesproxy.transports.https.connection import MAX_INFORMATIONAL_BYTES, Connection
from filesproxy.transports.https.dial import TIMEOUTS
from filesproxy.wire.http1 import AnswerReader

BRIEF = 0.1  # seconds of real time, where a test waits for a limit: the kernel or a poll keeps it, no clock of ours
LATE = SOON  # after a limit, within which the caller must be back
BIG = bytes(20 << 20)  # more than the buffers on the way take
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
TOO_BIG = answer({"error": {"message": "Too big."}}, "413 Content Too Large")


@pytest.fixture
def ends():
    """A connection with limits of ten seconds, and the upstream's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    far.settimeout(WAIT)
    connection = Connection(near)
    connection.send_timeout = WAIT
    connection.read_timeout = WAIT
    yield connection, far
    connection.close()
    far.close()


def told(connection, far, data):
    """Let the upstream say this, and see it arrive."""
    far.sendall(data)
    assert until(lambda: not connection.is_quiet())


@contextlib.contextmanager
def within(least, most):
    started = time.monotonic()
    yield
    assert least <= time.monotonic() - started < most


class Reader(threading.Thread):
    """An upstream that reads so many bytes at a time, with a pause of real time after each."""

    def __init__(self, sock, size=1 << 18, pause=0.0):
        super().__init__()
        self._sock, self._size, self._pause = sock, size, pause
        self._digest, self.count = hashlib.sha256(), 0
        self.start()

    def run(self):
        while block := self._sock.recv(self._size):
            self._digest.update(block)
            self.count += len(block)
            if self._pause:
                time.sleep(self._pause)

    def digest(self):
        """Of all that was sent, once the other side is done."""
        self.join(WAIT)
        return self._digest.hexdigest()


# Sends


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("size,pause", [(1 << 18, 0), (60_000, 0.001), (7001, 0)], ids=["fast", "slow", "small"])
def test_many_buffers_are_sent_whole_and_in_order(size, pause, looks, ends):
    connection, far = ends
    rng = random.Random(5)
    buffers = [rng.randbytes(rng.choice((0, 1, 2, 1000, 50_000))) for _ in range(500)]
    reader = Reader(far, size, pause)
    assert connection.send(buffers, looks)
    connection.sock.shutdown(socket.SHUT_WR)
    assert reader.digest() == hashlib.sha256(b"".join(buffers)).hexdigest()


def test_sends_follow_one_another(ends):
    connection, far = ends
    rng = random.Random(6)
    blocks = [[b"a\r\n", rng.randbytes(rng.randint(0, 300_000)), b"\r\n"] for _ in range(60)]
    reader = Reader(far, 90_000)
    assert all(connection.send(buffers) for buffers in blocks)
    connection.sock.shutdown(socket.SHUT_WR)
    assert reader.digest() == hashlib.sha256(b"".join(map(b"".join, blocks))).hexdigest()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_buffers_of_any_kind_are_sent_and_left_as_they_were(kind, ends):
    connection, far = ends
    buffers = [kind(b"ab"), kind(b""), kind(b"c")]
    assert connection.send(buffers)
    assert far.recv(10) == b"abc"
    assert [bytes(buffer) for buffer in buffers] == [b"ab", b"", b"c"]


def test_nothing_to_send_takes_no_time(ends):
    connection, far = ends
    connection.send_timeout = BRIEF
    assert connection.send([]) and connection.send([b"", b""])
    connection.sock.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""


def test_answer_that_is_there_already_ends_a_send_and_is_still_to_be_read(ends):
    connection, far = ends
    told(connection, far, TOO_BIG)
    assert not connection.send([b"more"])
    assert connection.receive(1 << 16) == TOO_BIG
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)


def test_beginning_of_a_request_is_sent_without_a_look(ends):
    connection, far = ends
    told(connection, far, TOO_BIG)
    assert connection.send([b"head"], check_first=False)
    assert far.recv(10) == b"head"


@pytest.mark.parametrize("looks", [True, False])
def test_answer_that_comes_while_a_send_waits_ends_it(looks, ends):
    connection, far = ends
    thread = threading.Thread(target=lambda: (fill_up(far), far.sendall(TOO_BIG)))
    thread.start()
    with within(0, LATE):
        is_sent = connection.send([BIG], looks)
        assert not is_sent
    thread.join()
    assert connection.receive(1 << 16) == TOO_BIG


@pytest.mark.parametrize("looks", [True, False])
def test_upstream_that_does_not_read_is_given_up_in_the_limit(looks, ends):
    connection, _ = ends
    connection.send_timeout = BRIEF
    with within(BRIEF, BRIEF + LATE):
        is_sent = connection.send([b"head", BIG], looks)
        assert not is_sent


def test_upstream_that_stops_reading_is_given_up_in_the_limit(ends):
    connection, far = ends
    connection.send_timeout = BRIEF
    reader = threading.Thread(target=lambda: [far.recv(1 << 16) for _ in range(20)])
    reader.start()
    with within(BRIEF, BRIEF + LATE):
        is_sent = connection.send([BIG])
        assert not is_sent
    reader.join(WAIT)


def test_slow_reader_is_not_given_up_as_long_as_it_reads(ends):
    connection, far = ends
    connection.send_timeout = 0.5
    reader = Reader(far, 1 << 20, 0.1)  # in all, longer than the limit, whatever the buffers on the way take
    with within(0.5, 2 * WAIT):
        is_sent = connection.send([BIG])
        assert is_sent
    connection.sock.shutdown(socket.SHUT_WR)
    reader.join(WAIT)
    assert reader.count == len(BIG)


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize("looks", [True, False])
def test_upstream_that_has_left_ends_a_send_without_an_error(looks, leave, ends):
    connection, far = ends
    leave(far)
    assert until(lambda: not connection.is_quiet())
    with within(0, LATE):
        is_sent = connection.send([b"head", BIG], looks)
        assert not is_sent


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
def test_upstream_that_leaves_while_a_send_waits_ends_it(leave, ends):
    connection, far = ends
    thread = threading.Thread(target=lambda: (fill_up(far), leave(far)))
    thread.start()
    with within(0, LATE):
        is_sent = connection.send([BIG])
        assert not is_sent
    thread.join()


def test_upstream_that_half_closes_ends_a_send(ends):
    connection, far = ends
    far.shutdown(socket.SHUT_WR)
    assert until(lambda: not connection.is_quiet())
    assert not connection.send([b"more"])


class Failing(socket.socket):
    """A socket whose first send fails in this way."""

    failure = None

    def sendmsg(self, *arguments):
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        return super().sendmsg(*arguments)


@pytest.fixture
def failing():
    """A connection whose first send will fail as its socket's `failure` says, and the upstream's end of it."""
    near, far = socket.socketpair()
    with far, Failing(near.family, near.type, near.proto, fileno=near.detach()) as sock:
        connection = Connection(sock)
        connection.send_timeout = WAIT
        yield connection, far


def test_send_for_which_the_kernel_has_no_room_after_all_is_tried_again(failing):
    connection, far = failing
    connection.sock.failure = BlockingIOError()
    assert connection.send([b"abc"])
    assert far.recv(9) == b"abc"


def test_send_that_the_network_refuses_is_an_error_without_its_text(failing):
    connection, _ = failing
    connection.sock.failure = OSError(errno.ENETDOWN, "sk-canary")
    with pytest.raises(UpstreamError, match="broke while sending") as caught:
        connection.send([b"abc"])
    assert "sk-canary" not in str(caught.value) and caught.value.__cause__ is None


# Informational answers while a request is sent


@pytest.mark.parametrize("heads", [GO_ON, HINTS, GO_ON + HINTS, GO_ON * 20], ids=["100", "103", "both", "many"])
def test_informational_answer_is_passed_over(heads, ends):
    connection, far = ends
    told(connection, far, heads)
    assert connection.send([b"more"])
    assert connection.send([b"more"]) or not connection.is_quiet()
    while not connection.is_quiet():
        assert connection.send([b"."])
    far.sendall(TOO_BIG)
    assert connection.receive(1 << 16) == TOO_BIG


@pytest.mark.parametrize("head", [GO_ON, HINTS], ids=["100", "103"])
def test_informational_answer_is_passed_over_in_any_two_halves(head, ends):
    connection, far = ends
    for at in range(1, len(head)):
        told(connection, far, head[:at])
        assert connection.send([b"more"]), at
        far.sendall(head[at:])
        assert until(lambda: connection.send([b"."]) and connection.is_quiet()), at
    far.sendall(TOO_BIG)
    assert connection.receive(1 << 16) == TOO_BIG


@pytest.mark.parametrize("raw", [GO_ON + TOO_BIG, HINTS * 2 + TOO_BIG, GO_ON + SWITCHING, SWITCHING],
                         ids=["413_after_100", "413_after_103s", "101_after_100", "101"])  # fmt: skip
def test_answer_after_an_informational_one_ends_a_send(raw, ends):
    connection, far = ends
    told(connection, far, raw)
    assert not all(connection.send([b"more"]) for _ in range(9))
    assert connection.receive(1 << 16) == (TOO_BIG if raw.endswith(TOO_BIG) else SWITCHING)


OTHERS = {
    "200": b"HTTP/1.1 2",
    "1_0": b"HTTP/1.0 1",
    "not_http": b"x",
    "101": b"HTTP/1.1 101",
    "bare_cr": b"HTTP/1.1 100 C\r\nx: \r\r\n\r\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_beginning_of_any_other_answer_ends_a_send(name, ends):
    connection, far = ends
    told(connection, far, OTHERS[name])
    assert not connection.send([b"more"])


def test_informational_answer_without_an_end_ends_a_send(ends):
    connection, far = ends
    told(connection, far, b"HTTP/1.1 103 Early Hints\r\nx: " + b"a" * MAX_INFORMATIONAL_BYTES)
    assert until(lambda: not connection.send([b"more"]))


def test_half_of_an_informational_answer_is_waited_for_without_work_and_not_for_ever(ends):
    connection, far = ends
    connection.send_timeout = BRIEF
    told(connection, far, HINTS[:20])
    started = time.thread_time()
    with within(BRIEF, BRIEF + LATE):
        is_sent = connection.send([BIG])
        assert not is_sent
    assert time.thread_time() - started < BRIEF / 2


def test_informational_answer_while_a_send_waits_does_not_end_it(ends):
    connection, far = ends
    readers = []

    def upstream():
        fill_up(far)
        far.sendall(HINTS[:30])
        fill_up(far)
        far.sendall(HINTS[30:])
        fill_up(far)
        readers.append(Reader(far))

    thread = threading.Thread(target=upstream)
    thread.start()
    is_sent = connection.send([BIG])
    assert is_sent
    thread.join()
    connection.sock.shutdown(socket.SHUT_WR)
    assert readers[0].digest() == hashlib.sha256(BIG).hexdigest()


# Reads


def test_read_gives_what_has_come_and_no_more_than_asked(ends):
    connection, far = ends
    far.sendall(b"abcdef")
    assert connection.receive(4) == b"abcd"
    assert connection.receive(4) == b"ef"
    far.close()
    assert connection.receive(4) == connection.receive(4) == b""


def test_read_waits_so_long_and_no_longer(ends):
    connection, far = ends
    connection.read_timeout = BRIEF
    with within(BRIEF * 0.9, BRIEF + LATE), pytest.raises(TIMEOUTS):
        connection.receive(1)
    far.sendall(b"a")
    assert connection.receive(1) == b"a"


def test_limit_of_reads_can_be_changed_and_counts_anew_for_each(ends):
    connection, far = ends
    connection.read_timeout = 0.05
    with within(0, LATE), pytest.raises(TIMEOUTS):
        connection.receive(1)
    connection.read_timeout = WAIT
    timer = threading.Timer(BRIEF, far.sendall, [b"a"])
    timer.start()
    assert connection.receive(1) == b"a"
    timer.join()
    for _ in range(2):
        connection.read_timeout = BRIEF
        with within(BRIEF * 0.9, BRIEF + LATE), pytest.raises(TIMEOUTS):
            connection.receive(1)


@pytest.mark.parametrize("seconds", [0.001, 1e-6, 1e-9, 1e-300])
def test_limit_of_next_to_nothing_is_not_none(seconds, ends):
    connection, _ = ends
    connection.read_timeout = seconds
    with within(0, LATE), pytest.raises(TIMEOUTS):
        connection.receive(1)


def test_limit_of_seconds_and_a_fraction_is_what_the_kernel_has(ends):
    connection, far = ends
    connection.read_timeout = 1.1
    far.sendall(b"a")
    assert connection.receive(1) == b"a"
    seconds, microseconds = struct.unpack("ll", connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
    assert (seconds, microseconds // 10_000) == (1, 10)  # it counts in ticks of up to ten milliseconds


def test_reset_is_an_error_that_is_not_a_time_limit(ends):
    connection, far = ends
    reset(far)
    with pytest.raises(ConnectionResetError) as caught:
        connection.receive(1)
    assert not isinstance(caught.value, TIMEOUTS)


def test_sends_do_not_change_the_limit_of_reads(ends):
    connection, far = ends
    connection.read_timeout = BRIEF
    connection.send_timeout = WAIT
    assert connection.send([b"a"])
    with within(BRIEF * 0.9, BRIEF + LATE), pytest.raises(TIMEOUTS):
        connection.receive(1)


def test_answer_is_read_over_it(ends):
    connection, far = ends
    far.sendall(HINTS + TOO_BIG)
    response = AnswerReader(connection.receive)
    response.begin()
    assert (response.status, b"".join(iter(response.read, b""))) == (413, TOO_BIG.partition(b"\r\n\r\n")[2])
    assert response.is_reusable and connection.is_quiet()


# Whether it is quiet


def test_connection_is_quiet_until_the_upstream_says_something_and_again_after_it(ends):
    connection, far = ends
    assert connection.is_quiet() and connection.is_quiet()
    assert connection.send([b"head"]) and connection.is_quiet()
    told(connection, far, b"a")
    assert not connection.is_quiet()
    assert connection.receive(1) == b"a"
    assert connection.is_quiet()


@pytest.mark.parametrize("leave", [socket.socket.close, reset, lambda far: far.shutdown(socket.SHUT_WR)],
                         ids=["close", "reset", "half_close"])  # fmt: skip
def test_connection_that_the_upstream_has_left_is_not_quiet(leave, ends):
    connection, far = ends
    leave(far)
    assert until(lambda: not connection.is_quiet(), LATE)


def test_connection_that_somebody_has_shut_down_is_not_quiet(ends):
    connection, _ = ends
    connection.sock.shutdown(socket.SHUT_RDWR)
    assert not connection.is_quiet()


def test_connection_without_room_is_not_quiet_until_the_upstream_has_read(ends):
    connection, far = ends
    connection.send_timeout = 0.05
    is_sent = connection.send([BIG])
    assert not is_sent
    assert not connection.is_quiet()
    far.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while far.recv(1 << 20):
            pass
    assert until(connection.is_quiet)


def test_connection_may_be_closed_twice(ends):
    connection, far = ends
    connection.close()
    connection.close()
    assert far.recv(1) == b""


def test_thread_gives_way_after_a_large_block_and_not_after_a_small_request(ends, monkeypatch):
    connection, far = ends
    given = []
    monkeypatch.setattr("filesproxy.transports.https.connection.give_way", lambda: given.append(True))
    assert connection.send([b"GET / HTTP/1.1\r\n\r\n"], check_first=False) and not given
    reader = Reader(far)
    assert connection.send([bytes(1 << 20)]) and given
    connection.sock.shutdown(socket.SHUT_WR)
    reader.join(WAIT)
    assert reader.count == (1 << 20) + 18
