"""Settings and hooks for gunicorn: `gunicorn -c python:filesproxy.serving.gunicorn`, or through `gunicorn.conf.py`.

Tuned for gunicorn 27, runs on 23 and newer. The gateway's own settings come from FILESPROXY_CONFIG and FILESPROXY_*;
these only say how it is served. gunicorn's master process imports this module and with it the whole package, so new
code needs a restart. The master also reads the gateway's configuration, at the start and at a HUP, and keeps the last
one that can be used: a broken file stops neither a HUP nor the worker that takes the place of a crashed one.
"""

from __future__ import annotations

import inspect
import logging
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from gunicorn import util
from gunicorn.http.body import LengthReader
from gunicorn.workers.gthread import TConn, ThreadWorker

from ..app import Application, create_app, make_transports
from ..config.load import Config, load
from ..config.reload import check_reload
from ..errors import ConfigError
from ..gateway.access_log import to_stdout
from ..providers import PROVIDERS
from . import files
from .limits import raise_descriptor_limit
from .lobby import Lobby

wsgi_app = "filesproxy.serving.gunicorn:application()"
bind = "127.0.0.1:8787"

# gthread: a sync worker carries one transfer at a time and is killed at `timeout`; gevent would be a dependency.
worker_class = "gthread"
# For two cores. Have as many workers as cores.
workers = 2
# Far above the number of cores: a transfer holds a thread for as long as its client likes, and a thread that waits for
# a socket costs little. 50 slow uploads must not starve a health check.
threads = 256
# Connections that a worker holds, waiting ones included. Above `threads`, so that a full worker still accepts.
worker_connections = 512

# Seconds without a heartbeat of the worker's main loop. With gthread this does not end a request.
timeout = 60
# Seconds for transfers in progress at a reload or stop. The supervisor must wait longer (systemd: TimeoutStopSec).
graceful_timeout = 300
# Seconds. Above the idle time of a proxy in front, if there is one.
keepalive = 5

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
# Refuse `x_portkey_api_key` beside `x-portkey-api-key`: WSGI would show them as one header.
header_map = "refuse"
# gunicorn lets local peers set SCRIPT_NAME and the scheme by headers. Name only a proxy here that overwrites them.
forwarder_headers = ""
forwarded_allow_ips = ""

# The heartbeat file must not wait for a disk. Where there is no /dev/shm, use another tmpfs.
worker_tmp_dir = "/dev/shm"
# Newer versions open a control socket, which a locked-down host should not have.
control_socket_disable = True
# Each worker makes the application itself, after the fork.
preload_app = False

# The application writes one JSON line for each request. gunicorn's own line could hold a query or a header.
accesslog = None
errorlog = "-"

#: seconds between two reads or writes of one client; then its thread is free again
CLIENT_IDLE_SECONDS = 30.0
#: seconds for the whole head of a request
HEAD_SECONDS = 10.0
#: seconds for a block of an upload to fill before it is passed on
COLLECT_SECONDS = 1.0
#: bytes that a refused client may still send, within 2 s, so that it reads the answer
MAX_DRAIN_BYTES = 1 << 30


_kept: Config | None = None  # a worker inherits it


def application() -> Application:
    """The gateway with the configuration that the master has kept. Each worker makes one of its own."""
    if _kept is None:  # ConfigError says why, or the application is preloaded
        return create_app()
    return Application(_kept, PROVIDERS, make_transports())


def on_starting(server: Any) -> None:
    """Raise the limit of file descriptors, which workers inherit, and read the configuration."""
    global _kept
    raise_descriptor_limit()
    if _serves_ours(server):
        with suppress(ConfigError):  # the first worker says it, and gunicorn stops
            _kept = load(None, {}, PROVIDERS)


def on_reload(server: Any) -> None:
    """Read the configuration again. If it cannot be used, the log says why, and the workers get the one before."""
    global _kept
    if not _serves_ours(server):
        return
    try:
        new = load(None, {}, PROVIDERS)
        if _kept:
            check_reload(_kept, new)
        _kept = new
    except ConfigError as error:
        for problem in error.message.splitlines():
            server.log.error("filesproxy is not reloaded: %s", problem)


def _serves_ours(server: Any) -> bool:
    """Whether `application` is served. Another one may have other providers, and reads its own configuration."""
    return bool(server.cfg.wsgi_app == wsgi_app)


def when_ready(server: Any) -> None:
    """Give the listeners a time limit in the kernel. Accepted sockets inherit it, and it covers a request's head too.

    On gthread nothing else frees the thread of a stalled client.
    """
    # A send that has put a part into the kernel's buffer returns at its limit, and the next one waits as long again.
    limits = {socket.SO_RCVTIMEO: CLIENT_IDLE_SECONDS, socket.SO_SNDTIMEO: CLIENT_IDLE_SECONDS / 2}
    for listener in server.LISTENERS:
        for option, seconds in limits.items():
            listener.sock.setsockopt(socket.SOL_SOCKET, option, _timeval(seconds))


def post_fork(server: Any, worker: Any) -> None:
    """Send warnings to stderr before the application is made. Quick: a signal that comes in the meantime is lost."""
    logger = logging.getLogger("filesproxy")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    worker.log.error_log.addFilter(_without_secrets)


def post_worker_init(worker: Any) -> None:
    """Send the access log to stdout, share the threads, and close no connection on the thread that accepts."""
    to_stdout()
    worker.filesproxy_lobby = lobby = Lobby(worker.cfg.threads, HEAD_SECONDS)
    if _is_known(worker):
        _watch_heads(worker, lobby)
    else:
        message = "The time of a request's head is not limited: this is not the gunicorn that filesproxy knows."
        logging.getLogger("filesproxy").warning(message)
    if isinstance(worker, ThreadWorker) and isinstance(worker.wsgi, Application):
        worker.wsgi.share_threads(worker.cfg.threads)
    if isinstance(worker.wsgi, Application) and worker.age == 1:  # the first of all
        files.prepare(worker.wsgi)
    # gunicorn 27 waits up to 2 s for a refused client to hang up, on the thread that accepts: 50 of them stop a worker.
    # It also reads only 64 KiB of what such a client still sends, then resets the answer: nginx makes a 502 of that.
    close = getattr(util, "close_graceful", None)
    if close is not None:
        more = {"max_drain": MAX_DRAIN_BYTES} if "max_drain" in inspect.signature(close).parameters else {}

        def linger(sock: socket.socket) -> None:
            lobby.enter(lambda: sock)
            try:
                close(sock, **more)
            finally:
                lobby.leave()

        util.close_graceful = lambda sock: worker.tpool.submit(linger, sock)


def _is_known(worker: Any) -> bool:
    """Whether a head is read where the tests know it: by `handle`, on a thread of its own, until `pre_request`."""
    return (
        isinstance(worker, ThreadWorker)
        and [*inspect.signature(worker.handle).parameters] == ["conn"]
        and "sock" in inspect.signature(TConn).parameters
        and (worker.cfg.pre_request, worker.cfg.post_request) == (pre_request, post_request)
    )


def _watch_heads(worker: Any, lobby: Lobby) -> None:
    """Limit the time, and the number of threads, that clients can take with heads which they do not finish."""
    handle = worker.handle

    def handle_in_time(conn: Any) -> Any:
        lobby.enter(lambda: conn.sock)
        try:
            return handle(conn)
        finally:
            lobby.leave()

    worker.handle = handle_in_time
    threading.Thread(target=lobby.watch, name="filesproxy lobby", daemon=True).start()


def pre_request(worker: Any, req: Any) -> None:
    """Let the application read bodies straight from the socket, and let no connection wait for an unread rest."""
    worker.filesproxy_lobby.leave()
    _read_directly(req)
    has_body = any(name in ("CONTENT-LENGTH", "TRANSFER-ENCODING") for name, _ in req.headers)
    if has_body and not hasattr(util, "close_graceful"):
        # After a body that was not read to its end, gunicorn 23 would wait for the rest without a time limit.
        req.force_close()


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """From here on, gunicorn may wait for the rest of a body that was refused."""
    sock = getattr(req.unreader, "sock", None)
    if sock is not None:
        worker.filesproxy_lobby.enter(lambda: sock)


def _read_directly(req: Any) -> None:
    """Replace `wsgi.input.read` of a body with a length: gunicorn's own copies each byte three more times.

    The attributes are not public. Nothing is replaced if they differ from the versions that the tests know.
    """
    body, unreader = req.body, req.unreader
    reader, sock = getattr(body, "reader", None), getattr(unreader, "sock", None)
    if not (isinstance(reader, LengthReader) and type(sock) is socket.socket and hasattr(unreader, "buf")):
        return
    read_as_gunicorn = body.read

    def read(size: int | None = None) -> Any:
        held = len(unreader.buf.getbuffer())  # what came with the request's head
        wanted = min(size, reader.length) if isinstance(size, int) and size >= 0 else -1
        if wanted < held or wanted == 0 or body.buf.tell():
            return read_as_gunicorn(size)
        try:
            block = unreader.read() if held else _collected(sock, wanted)
        except Exception:
            body.failed = True  # gunicorn's sign that the beginning of the next request is unknown
            raise
        reader.length -= len(block)
        return block

    body.read = read


def _collected(sock: socket.socket, size: int) -> bytes:
    """What arrives within COLLECT_SECONDS of the first byte. For that byte, the client has its whole idle time."""
    sock.recv(1, socket.MSG_PEEK)  # waiting here holds no memory
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(COLLECT_SECONDS))
    try:
        return sock.recv(size, socket.MSG_WAITALL)
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(CLIENT_IDLE_SECONDS))


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", *divmod(int(seconds * 1e6), 10**6))


def _without_secrets(record: logging.LogRecord) -> bool:
    """Keep headers that gunicorn cannot parse, and tracebacks of stalled clients, out of its log."""
    if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
        return False
    if str(record.msg).startswith("Invalid request"):
        record.msg, record.args = "Invalid request", ()
    return True
