"""gunicorn for filesproxy: `gunicorn -c gunicorn.conf.py`. Tuned for gunicorn 27, runs on 23 and newer.

The gateway's own settings come from FILESPROXY_CONFIG and FILESPROXY_*; here is only how it is served.
"""

from __future__ import annotations

import inspect
import logging
import socket
import struct

from gunicorn import util
from gunicorn.http.body import LengthReader

wsgi_app = "filesproxy:create_app()"
bind = "127.0.0.1:8787"

# gthread: a sync worker carries one transfer at a time and kills it at `timeout`; gevent would be a dependency.
worker_class = "gthread"
# For two cores; have as many as cores.
workers = 2
# Far above cores: a transfer holds a thread for as long as its client likes, and a thread blocked on a socket costs
# little. 50 slow uploads must not starve a health check.
threads = 256
# Connections a worker holds, waiting ones included; above `threads`, so that a full worker still accepts.
worker_connections = 512

# For the worker's main loop only: with gthread it does not end a request.
timeout = 60
# On a reload or stop, transfers under way may end; have the supervisor (systemd: TimeoutStopSec) wait longer.
graceful_timeout = 300
# Above the idle time of a proxy in front, if there is one.
keepalive = 5

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
# `x_portkey_api_key` beside `x-portkey-api-key`: WSGI would see one header; refuse it.
header_map = "refuse"
# gunicorn lets local peers set SCRIPT_NAME and the scheme by header. Only name a proxy here that overwrites them.
forwarder_headers = ""
forwarded_allow_ips = ""

# The heartbeat file must not wait for a disk; where there is no /dev/shm, use another tmpfs.
worker_tmp_dir = "/dev/shm"
# A socket to control gunicorn by, in newer versions: not on a locked-down host.
control_socket_disable = True
# Nothing may be opened before the fork; the application opens nothing before its first request.
preload_app = False

# The application writes one JSON line a request; gunicorn's own line could hold a query or a header.
accesslog = None
errorlog = "-"

# Seconds between two reads or writes of one client. A stalled client gives its thread back after this.
CLIENT_IDLE_SECONDS = 30
# For a block of an upload to fill, before it is passed on as it is.
COLLECT_SECONDS = 1
# What a refused client may still send, within 2 s, so that it reads the answer.
MAX_DRAIN_BYTES = 1 << 30


def when_ready(server):
    """Give every socket a time limit in the kernel, which accepted ones inherit: it holds for a request's head too.

    On gthread nothing else frees the thread of a stalled client. A limit in Python (settimeout) would add a poll to
    each read and write, and with it a hand-over of the interpreter's lock.
    """
    # A send that has put a part into the kernel's buffer returns at its limit, and the next one waits as long again.
    limits = {socket.SO_RCVTIMEO: CLIENT_IDLE_SECONDS, socket.SO_SNDTIMEO: CLIENT_IDLE_SECONDS / 2}
    for listener in server.LISTENERS:
        for option, seconds in limits.items():
            listener.sock.setsockopt(socket.SOL_SOCKET, option, _timeval(seconds))


def pre_request(worker, req):
    """Let the application read bodies straight from the socket, and no connection wait for the rest of one."""
    _read_directly(req)
    has_body = any(name in ("CONTENT-LENGTH", "TRANSFER-ENCODING") for name, _ in req.headers)
    if has_body and not hasattr(util, "close_graceful"):
        # After a body that was not read to its end, gunicorn 23 would wait for the rest without a time limit.
        req.force_close()


def _read_directly(req):
    """Replace `wsgi.input.read` of a body with a length: gunicorn's own copies each byte three times more.

    Not public in gunicorn: nothing is replaced if something looks otherwise than in the versions that tests know.
    """
    body, unreader = req.body, req.unreader
    reader, sock = getattr(body, "reader", None), getattr(unreader, "sock", None)
    if not (isinstance(reader, LengthReader) and type(sock) is socket.socket and hasattr(unreader, "buf")):
        return
    read_as_gunicorn = body.read

    def read(size=None):
        held = len(unreader.buf.getbuffer())  # what came with the request's head
        wanted = min(size, reader.length) if isinstance(size, int) and size >= 0 else -1
        if wanted < held or wanted == 0 or body.buf.tell():
            return read_as_gunicorn(size)
        try:
            block = unreader.read() if held else _collected(sock, wanted)
        except Exception:
            body.failed = True  # gunicorn's sign that the next request has no known beginning
            raise
        reader.length -= len(block)
        return block

    body.read = read


def _collected(sock, size):
    """What comes within a second of the first byte, for which a client has its whole idle time.

    Whole blocks: each costs the application as much as 100 KiB of bytes, and what is cut off one is lost to the heap.
    """
    sock.recv(1, socket.MSG_PEEK)  # who waits here holds no memory
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(COLLECT_SECONDS))
    try:
        return sock.recv(size, socket.MSG_WAITALL)
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(CLIENT_IDLE_SECONDS))


def _timeval(seconds):
    return struct.pack("ll", *divmod(int(seconds * 1e6), 10**6))


def post_fork(server, worker):
    """Send warnings to stderr, before the application is made. Quick: a signal that comes meanwhile is lost."""
    logger = logging.getLogger("filesproxy")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    worker.log.error_log.addFilter(_discreet)


def _discreet(record):
    """Keep gunicorn's log from repeating a header that it could not read, and from a traceback for a stalled head."""
    if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
        return False
    if str(record.msg).startswith("Invalid request"):
        record.msg, record.args = "Invalid request", ()
    return True


def post_worker_init(worker):
    """Send the access log to stdout, and let no connection be closed on the thread that accepts."""
    from filesproxy.gateway.access_log import to_stdout  # not above: a reload must load the application anew

    to_stdout()
    # gunicorn 27 waits up to 2 s for a refused client to hang up, on the thread that accepts: 50 of them stop a worker.
    # It also reads only 64 KiB of what such a client still sends, then resets the answer away: nginx makes a 502 of it.
    close = getattr(util, "close_graceful", None)
    if close is not None:
        more = {"max_drain": MAX_DRAIN_BYTES} if "max_drain" in inspect.signature(close).parameters else {}
        util.close_graceful = lambda sock: worker.tpool.submit(close, sock, **more)
