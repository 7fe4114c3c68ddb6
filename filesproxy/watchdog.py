"""Ends calls that nobody waits for: one thread a process looks at the sockets of clients while a model answers.

WSGI tells an application that its client has left when it writes, and a model may be silent for minutes. So the thread
polls the client's socket, where the server shows it, and shuts the upstream's down; whoever reads that one wakes up.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from contextlib import suppress

from .provider import Client

INTERVAL_SECONDS = 0.2  # between two looks: a client that has left costs the provider at most this much more


class Watch:
    """One call under watch: its client's socket and the upstream's. Close it when the call is over."""

    def __init__(self, dog: Watchdog, client: Client, upstream: socket.socket) -> None:
        self._dog = dog
        self._client = client
        self._upstream = upstream
        self.has_left = False

    def client_descriptor(self) -> int:
        """The client's file descriptor, -1 if the server has closed it."""
        return self._client.fileno()

    def end(self) -> None:
        """The client has left: wake up whoever reads from the upstream or writes to it."""
        self.has_left = True
        with suppress(OSError):
            socket.socket.shutdown(
                self._upstream, socket.SHUT_RDWR
            )  # under TLS, whose own method is not for two threads

    def close(self) -> None:
        """Watch it no more; a second time is harmless."""
        self._dog.forget(self)


class Watchdog:
    """The watches of one sender. Its thread runs while there are any, and not before the first: forking is safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._runs_in = 0  # the process id of the thread's process, 0 while there is none

    def watch(self, client: Client, upstream: socket.socket) -> Watch:
        """Watch a call until the watch is closed."""
        made = Watch(self, client, upstream)
        with self._lock:
            self._watches.add(made)
            if self._runs_in != os.getpid():
                self._runs_in = os.getpid()
                threading.Thread(target=self._run, name="filesproxy watchdog", daemon=True).start()
        return made

    def forget(self, watch: Watch) -> None:
        """Drop a watch."""
        with self._lock:
            self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            with self._lock:
                if not self._watches:
                    self._runs_in = 0
                    return
                watches = list(self._watches)
            _end_abandoned(watches)


def _end_abandoned(watches: list[Watch]) -> None:
    """End the calls whose clients have closed their side (POLLRDHUP), which no client does that waits for an answer."""
    poll, by_descriptor = select.poll(), {}
    for watch in watches:
        descriptor = watch.client_descriptor()
        if descriptor >= 0:
            poll.register(descriptor, select.POLLRDHUP)
            by_descriptor[descriptor] = watch
    for descriptor, _ in poll.poll(0):
        by_descriptor[descriptor].end()
