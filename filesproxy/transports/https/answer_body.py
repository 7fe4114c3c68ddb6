"""The body of an upstream's answer, and the failures that the watchdog caused while it was awaited or read."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import ClientAborted, FilesproxyError, UpstreamError, UpstreamTimeout
from ...watchdog import Watch
from ...wire.http1 import AnswerReader
from .connection import Connection
from .dial import TIMEOUTS
from .pool import Pool


class AnswerBody:
    """The bytes of an answer as they arrive. Raises if they stop early. Closing it returns or closes the connection.

    `pool` is None if the connection cannot be used again. A relayed body returns its connection when the last byte has
    been read, however long the client takes to read on.
    """

    def __init__(
        self, connection: Connection, response: AnswerReader, watch: Watch, pool: Pool | None, is_relayed: bool = True
    ) -> None:
        self._connection: Connection | None = connection
        self._response = response
        self._watch = watch
        self._pool = pool
        self._is_relayed = is_relayed
        self.status = response.status
        self.headers = response.headers

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The bytes that have arrived. UpstreamError if the answer ends before its announced length."""
        if self._response.is_complete and (self._connection is None or not self._is_relayed):
            raise StopIteration
        try:
            block = self._read()
        except UpstreamError as error:
            raise actual_failure(error, self._watch) from None
        if self._response.is_complete and self._is_relayed:
            self.close()
        if block:
            return block
        raise StopIteration

    def _read(self) -> bytes:
        try:
            block = self._response.read()
        except TIMEOUTS:
            raise UpstreamTimeout("The provider stopped sending.") from None
        except OSError:
            raise UpstreamError("The connection to the provider broke during its answer.") from None
        if not block and self._watch.is_woken:  # the watchdog shut the socket down, so this is not the answer's end
            raise UpstreamError("The provider ended its answer early.")
        return block

    def discard(self) -> None:
        """Close the connection, which has proved unreliable, instead of returning it."""
        self._pool = None
        self.close()

    def close(self) -> None:
        """Return the connection to the pool if the answer was read to its end; otherwise close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._watch.release_upstream() and self._pool and self._response.is_reusable:
            self._pool.keep(connection)
        else:
            connection.close()


def actual_failure(error: UpstreamError, watch: Watch) -> FilesproxyError:
    """The error, or, if the watchdog shut the socket down, the reason why it did."""
    if watch.has_left:
        return ClientAborted("The client closed the connection before the answer.")
    if watch.is_overdue and not isinstance(error, UpstreamTimeout):
        return UpstreamTimeout("The provider took too long.")
    return error
