"""The WSGI application: the way of a request, one error boundary around it, one log line behind it."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import __version__
from .calls import Answer, Call, Provider, Target, Transport, credential_headers, replace
from .config.load import Config, Sections, load
from .errors import FilesproxyError, LoopDetected
from .exchange import EventStream, run
from .gateway.access_log import Record
from .gateway.admission import Gate
from .gateway.auth import may_go, permit, require_this_machine
from .gateway.files import HANDLERS, time_limit
from .gateway.json_body import Budget, Document
from .gateway.json_requests import HANDLERS as JSON_HANDLERS
from .gateway.json_requests import JSON_OPERATIONS
from .gateway.wsgi import Request, Response, ResponseStream, error_response, json_response, respond
from .operations import Match, route
from .providers import PROVIDERS
from .transports.https.transport import Sender
from .watchdog import Watch, Watchdog, nothing
from .wire.headers import redact, relayed
from .wire.ranges import partial

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger("filesproxy")
# What a browser must not do with a stranger's file: guess its type, or run it as a page of this origin.
_CONTENT_HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
# Where clients of any provider present a credential.
_PRESENTED = frozenset({"authorization", "x-portkey-api-key", "api-key", "x-api-key"})
# Events are of one moment, and nginx would wait until it has a buffer full of them.
_EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def create_app(
    config: str | os.PathLike[str] | Sections | None = None,
    *,
    providers: Mapping[str, Provider] = PROVIDERS,
    transports: Mapping[str, Transport] | None = None,
    **settings: Any,
) -> Application:
    """The gateway as a WSGI application, to serve or to mount under any prefix.

    `config` is the path of an INI file or {section: {key: value}}; `settings` are those of [filesproxy], as keywords.
    Two applications in one process share nothing, and nothing is opened before the first request. Raises ConfigError.
    """
    loaded = load(config, settings, providers)
    return Application(loaded, providers, {**default_transports(loaded), **(transports or {})})


def default_transports(config: Config) -> dict[str, Transport]:
    """How calls are performed, by the scheme of their URL."""
    sender = Sender()
    made: dict[str, Transport] = {"http": sender, "https": sender}
    if any(settings["folder"] for settings in config.providers.values()):
        from .transports.local.transport import LocalTransport  # with SQLite, 0.9 MB of memory for each worker

        made["local"] = LocalTransport()
    return made


class Application:
    """A WSGI application (PEP 3333), safe for threads."""

    def __init__(self, config: Config, providers: Mapping[str, Provider], transports: Mapping[str, Transport]) -> None:
        self.config = config
        for warning in config.warnings:
            _log.warning(warning)
        self._transports = transports
        self._watchdog = Watchdog()
        self._budget = Budget(config.settings["max_json_in_flight"])
        self._gate = Gate(config, providers)
        names = _PRESENTED | credential_headers(providers)
        self._presented = frozenset([f"HTTP_{name.upper().replace('-', '_')}" for name in names])
        #: refuse other machines and foreign web pages everywhere: for a server without keys on a developer's machine
        self.this_machine_only = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; every failure becomes OpenAI's error envelope."""
        record = Record(environ, self._presented)
        try:
            return self._answer(environ, start_response, record)
        except FilesproxyError as error:
            record.error = error.code or ""
            response = error_response(error, record.headers())
        except Exception as error:
            _log.error("request %s: %s", record.id, _where(error))
            record.error = type(error).__name__
            failure = FilesproxyError(
                "The gateway failed; its log says where, under x-request-id.", code="internal_error"
            )
            response = error_response(failure, record.headers())
        return self._send(response, environ, start_response, record)

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse, record: Record) -> Iterable[bytes]:
        request = Request(environ)
        record.body = request.body
        request.check_target()
        _check_via(request, self.config.settings["via_name"])
        match = route(request.method, request.path)
        record.fields.update(operation=match.operation, file_id=match.id or None)
        response = _health(record) if match.operation == "health" else self._relay(request, match, record)
        return self._send(response, environ, start_response, record)

    def _relay(self, request: Request, match: Match, record: Record) -> Response:
        if self.this_machine_only:
            require_this_machine(request)
        admission = self._gate.admit(request)
        caller = admission.caller
        record.fields["key"], record.secret = caller.name or None, caller.credential
        permit(caller, match.operation)
        watch = record.watch = self._watchdog.watch(request.client)
        request.body.is_overdue = lambda: watch.is_overdue
        document = Document(request, self.config.settings, self._budget, self.config.providers)
        is_json = match.operation in JSON_OPERATIONS
        if is_json:  # of which the model may name the provider, so it is read before the provider's limits are known
            watch.total, watch.min_rate = self.config.settings["total_timeout"], self.config.settings["min_rate"]
            watch.transfer()
        try:
            target = admission.named_target(document.named_provider) if is_json else admission.target
            record.secret = target.credential
            record.fields["provider"] = f"@{target.name}" if target.is_saved else target.name
            watch.total, watch.min_rate = target.settings["total_timeout"], target.settings["min_rate"]
            # JSON has no back-pressure: what a slow client has sent of it stays in memory until the rest has come.
            watch.transfer(nothing if is_json else lambda: request.body.size)
            said = admission.headers_to(target) if is_json else admission.headers
            call = self._call(request, match, target, document, said, record)
            watch.follows_client = call.stream or call.is_generated
            record.upload = call.upload
            answer = run(call, target, self._transports)
        finally:
            document.release()
        if call.operation == "retrieve_file_content":
            answer = _partial(answer, call.headers)
        return _response(answer, target, record)

    def _call(
        self,
        request: Request,
        match: Match,
        target: Target,
        document: Document,
        headers: Mapping[str, str],
        record: Record,
    ) -> Call:
        timeout = time_limit(request)
        if match.operation in HANDLERS:
            call = HANDLERS[match.operation](request, match.id, target)  # which may read the body's beginning
        else:
            call = JSON_HANDLERS[match.operation](request, match.id, target, document)
        if call.headers:
            keys = self.config.keys
            own = {name: text for name, text in call.headers.items() if text and may_go(text, keys)}
            headers = {**headers, **own}
        return replace(call, headers=headers, timeout=timeout, now=record.started, watch=record.watch)

    def _send(
        self, response: Response, environ: WSGIEnvironment, start_response: StartResponse, record: Record
    ) -> Iterable[bytes]:
        watch = record.watch or Watch()

        def done(sent: int, error: str) -> None:
            watch.close()
            is_slow = error == "client_aborted" and watch.is_overdue
            record.write(response.status, sent, "client_timeout" if is_slow else error)

        stream = respond(response, environ["REQUEST_METHOD"], start_response, done)
        if isinstance(stream, ResponseStream):
            watch.is_answering = True
            watch.cuts_by_reset = not isinstance(response.body, EventStream)
            if watch.cuts_by_reset:
                watch.transfer(lambda: stream.delivered)
        return stream


def _check_via(request: Request, own_name: str) -> None:
    """LoopDetected, if this deployment has sent the request on before (RFC 9110 §7.6.3)."""
    via = request.headers.get("via")
    if via and any(own_name in entry.split()[1:2] for entry in via.split(",")):
        raise LoopDetected("This request has been through this gateway before: a provider leads back to it.")


def _partial(answer: Answer, asked: Mapping[str, str]) -> Answer:
    try:
        return partial(answer, asked)
    except BaseException:
        if answer.body:
            answer.body.close()
        raise


def _response(answer: Answer, target: Target, record: Record) -> Response:
    relayed_ones = relayed(answer.headers, content=answer.body is not None)
    headers = {**record.headers(), **{name: redact(text, target.credential) for name, text in relayed_ones.items()}}
    ignored = [*(record.upload.ignored if record.upload else ()), *answer.ignored]
    if ignored:
        headers["x-filesproxy-ignored"] = redact(", ".join(ignored), target.credential)
    if answer.body is None:
        record.note_file(answer.json, target.credential)
        return json_response(200, answer.json, headers, target.credential, answer.text)
    headers.setdefault("content-type", "application/octet-stream")
    own_headers = _EVENT_HEADERS if isinstance(answer.body, EventStream) else _CONTENT_HEADERS
    return Response(answer.status, {**headers, **own_headers}, answer.body)


def _health(record: Record) -> Response:
    return json_response(200, {"status": "ok", "service": "filesproxy", "version": __version__}, record.headers())


def _where(error: BaseException) -> str:
    """A traceback without the exception's text, which may hold what must not be logged."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
