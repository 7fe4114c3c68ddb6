"""The lobby: nobody stays for ever, and a crowd that waits for nothing makes room."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from sockets import WAIT, until

from filesproxy.serving import lobby as module
from filesproxy.serving.lobby import Lobby


class Guests:
    """Threads that read from a client each, in a lobby."""

    def __init__(self, lobby):
        self.lobby = lobby
        self.clients, self.ended = [], []
        self._threads = []

    def come(self, data=b""):
        """One more, whose client has sent this, which is not read."""
        theirs, ours = socket.socketpair()
        theirs.sendall(data)
        self.clients.append(theirs)
        thread = threading.Thread(target=self._wait, args=(len(self.clients) - 1, ours, bool(data)))
        self._threads.append(thread)
        thread.start()
        assert until(lambda: len(self.lobby) + len(self.ended) == len(self._threads))

    def _wait(self, number, sock, is_busy):
        with sock:
            self.lobby.enter(lambda: sock)
            if is_busy:
                self._is_over.wait(WAIT)
            while sock.recv(1):
                pass
            self.ended.append((number, self.lobby.leave()))

    def __enter__(self):
        self._is_over = threading.Event()
        return self

    def __exit__(self, *exc_info):
        self._is_over.set()
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        for thread in self._threads:
            thread.join(WAIT)


def later(monkeypatch, seconds):
    """It is now so many seconds later."""
    now = time.monotonic
    monkeypatch.setattr(module.time, "monotonic", lambda: now() + seconds)


def test_client_that_drips_is_shown_out_when_its_time_is_over(monkeypatch):
    with Guests(Lobby(256, 10)) as guests:
        guests.come()
        guests.clients[0].sendall(b"G")
        guests.lobby.check()
        assert guests.ended == []
        later(monkeypatch, 10.1)
        guests.lobby.check()
        assert until(lambda: guests.ended == [(0, False)])


def test_of_a_crowd_the_oldest_go_and_the_rest_may_stay(monkeypatch):
    with Guests(Lobby(16, 10)) as guests:  # two seats
        for _ in range(5):
            guests.come()
        guests.lobby.check()
        assert guests.ended == []  # they have only just come
        later(monkeypatch, 1.1)
        guests.lobby.check()
        assert until(lambda: sorted(guests.ended) == [(0, False), (1, False), (2, False)])
        guests.lobby.check()
        assert len(guests.lobby) == 2


def test_client_whose_bytes_wait_for_a_busy_thread_is_never_one_of_a_crowd(monkeypatch):
    with Guests(Lobby(8, 10)) as guests:
        guests.come(b"GET / HTTP/1.1\r\n")
        guests.come()
        guests.come()
        later(monkeypatch, 1.1)
        guests.lobby.check()
        assert until(lambda: sorted(guests.ended) == [(1, False), (2, False)])
        assert not guests.lobby.make_room()


def test_newcomer_takes_the_place_of_the_oldest_at_once():
    with Guests(Lobby(8, 10)) as guests:
        guests.come()
        assert not guests.lobby.make_room()  # one has its seat
        guests.come()
        assert guests.lobby.make_room()
        assert until(lambda: guests.ended == [(0, False)])


def test_who_leaves_in_time_is_told_so_and_may_leave_twice():
    lobby = Lobby(8, 10)
    with socket.socket() as sock:
        lobby.enter(lambda: sock)
        assert lobby.leave() and not lobby.leave()


def test_closed_socket_harms_nobody(monkeypatch):
    lobby = Lobby(1, 10)
    sock = socket.socket()
    lobby.enter(lambda: sock)
    sock.close()
    later(monkeypatch, 11)
    lobby.check()
    assert len(lobby) == 0


@pytest.mark.parametrize("threads", [1, 7, 8, 256])
def test_closing_shows_everybody_out(threads):
    with Guests(Lobby(threads, 10)) as guests:
        for _ in range(3):
            guests.come()
        guests.lobby.close()
        assert until(lambda: len(guests.ended) == 3)
