"""The WSGI application: the path of a request, with one error boundary around it, and the observers after it.

Only this module puts the parts together: it builds the transports and hands them to the exchange.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .budget import Hold, Shared
from .calls import Answer, Call, Json, KeptFiles, Provider, Target, Transport
from .config.load import Config, Sections, load
from .errors import FilesproxyError
from .exchange.events import EventStream
from .exchange.run import run
from .exchange.side_calls import SideCalls
from .gateway.access_log import AccessLog
from .gateway.admission import Admission, Gate
from .gateway.auth import Caller, permit, require_this_machine
from .gateway.health import health
from .gateway.inlining import Inlining
from .gateway.isolation import UPLOADS, Isolation, refuse_file_ids
from .gateway.json_body import JsonBody, split_model
from .gateway.json_requests import HANDLERS
from .gateway.key_guard import KeyGuard
from .gateway.models import ModelLists, asks_by
from .gateway.passing import check_via, passed_on
from .gateway.portkey import Notes
from .gateway.record import Observer, Record
from .gateway.request import Head, Request
from .gateway.response import (
    Response,
    ResponseStream,
    error_response,
    has_no_framing,
    held,
    respond,
    response_to,
    with_length,
)
from .gateway.router import Match, named_model, route
from .gateway.target import store_target
from .gateway.upload_rules import UploadRules
from .operations import FILE_OPERATIONS
from .providers import PROVIDERS
from .providers.table import credential_headers
from .transports.https.transport import HttpTransport
from .transports.local.ledger import FolderLedger
from .transports.local.transport import LocalTransport
from .watchdog import Watch, Watchdog, no_bytes
from .wire.headers import media_type
from .wire.ranges import partial

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger("filesproxy")
#: the operations that the gateway answers itself, without a key
OWN_OPERATIONS: dict[str, Callable[[Record], Response]] = {"health": health}


def create_app(
    config: str | os.PathLike[str] | Sections | None = None,
    *,
    providers: Mapping[str, Provider] = PROVIDERS,
    transports: Mapping[str, Transport] | None = None,
    **settings: Any,
) -> Application:
    """The gateway as a WSGI application, to serve or to mount under any prefix.

    `config` is the path of an INI file or {section: {key: value}}; `settings` are those of [filesproxy], as keywords;
    `providers` is a provider table; `transports` replaces transports by URL scheme. Two applications in one process
    share nothing, and nothing is opened before the first request. Raises ConfigError.
    """
    loaded = load(config, settings, providers)
    return Application(loaded, providers, {**make_transports(), **(transports or {})})


def make_transports() -> dict[str, Transport]:
    """How calls are performed, by the scheme of their URL.

    They do not depend on a configuration, so they can outlive an application: the next one can use the same connections
    and stores with another configuration.
    """
    http = HttpTransport()
    return {"http": http, "https": http, "local": LocalTransport()}


class Application:
    """A WSGI application (PEP 3333). Thread-safe."""

    def __init__(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        transports: Mapping[str, Transport],
        observers: Sequence[Observer] = (AccessLog(),),
    ) -> None:
        self.config = config
        for warning in config.warnings:
            _log.warning(warning)
        self.transports = transports
        self._gate = Gate(config, providers)
        self._guard = KeyGuard(config.keys)
        self._observers = observers
        self._watchdog = Watchdog()
        memory = config.settings["max_json_in_flight"]
        self._requests = Shared("memory for JSON requests", memory)
        # As much again: who fills the memory for requests must not cost others an answer that is paid for.
        self._answers = Shared("memory for JSON answers", memory)
        self.share_threads(float("inf"))
        self._models = ModelLists(asks_by(transports, self._watchdog, self._answers))
        self._inlining = Inlining(self._kept_files)
        self._providers = providers
        self._isolated: Isolation | None = None
        self._opening = threading.Lock()
        self._notes = Notes(providers, config.settings["log_metadata"])
        names = {"authorization", "x-portkey-api-key"} | credential_headers(providers)
        self._saved = tuple([own["credential"] for own in config.providers.values() if own["credential"]])
        self._credential_keys = frozenset([f"HTTP_{name.upper().replace('-', '_')}" for name in names])
        #: refuse other machines and foreign web pages, for a server without keys on a developer's machine
        self.this_machine_only = False

    def share_threads(self, threads: float) -> None:
        """Tell the application how many threads serve it, before it is served, so that each caller gets its share."""
        self._threads = Shared("threads", threads, self.config.settings["max_caller_requests"])

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; every failure becomes OpenAI's error envelope."""
        record = Record(environ, self._credential_keys, self._saved)
        try:
            return self._respond(environ, start_response, record)
        except BaseException as error:  # no response exists whose `close` could do this
            self._finish(record, 500, 0, type(error).__name__)
            raise

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse, record: Record) -> Iterable[bytes]:
        try:
            return self._send(self._answer(environ, record), environ, start_response, record)
        except FilesproxyError as error:
            # Without a code, the field or header at fault is all that tells why.
            record.note_failure(error.code or "", error.detail, "" if error.code else error.param or "")
            response = error_response(error, record.headers())
        except Exception as error:
            _log.error("request %s: %s", record.id, _where(error))
            record.note_failure(type(error).__name__)
            failure = FilesproxyError(
                "The gateway failed; its log says where, under x-request-id.", code="internal_error"
            )
            response = error_response(failure, record.headers())
        return self._send(response, environ, start_response, record)

    def _finish(self, record: Record, status: int, sent: int, error: str) -> None:
        """Stop watching the request and counting it for its caller, and tell the observers."""
        if record.watch:
            record.watch.close()
        sharer, record.sharer = record.sharer, None
        if sharer is not None:
            self._threads.give_back(sharer)
        record.finish(status, sent, error)
        for observer in self._observers:
            observer.finished(record)

    def _answer(self, environ: WSGIEnvironment, record: Record) -> Response:
        request = Request(environ)
        presented = self._guard.check_head(request)
        record.note_trace(request.headers)
        record.body = request.body
        if not named_model(request.path):
            request.refuse_encoded_slash()
        check_via(request.headers, self.config.settings["via_name"])
        match = route(request.method, request.path)
        if match.route.body == "part or json":
            is_form = media_type(request.headers) == "multipart/form-data"
            match = match._replace(route=match.route._replace(body="part" if is_form else "json"))
        record.operation = match.route.operation
        record.note_file(match.id)
        if match.route.operation in OWN_OPERATIONS:
            return OWN_OPERATIONS[match.route.operation](record)
        return self._relay(request, match, record, presented)

    def _relay(self, request: Request, match: Match, record: Record, presented: Sequence[str]) -> Response:
        """Admit the caller, find the target, make the call, run it, and turn its answer into a response."""
        admission = self._admit(request, match, record)
        self._threads.take(admission.sharer)
        record.sharer = admission.sharer
        watch = record.watch = self._watchdog.watch(request.client)
        if match.route.operation == "list_models" and (targets := admission.chat_targets()):
            self._notes.note(record, request.headers, admission.portkey_config, {})
            only = self._only_own(admission)
            response = self._models.response(request, match, admission.caller.key, targets, record, only)
            _limit_transfer(watch, self.config.settings)  # only now: the providers have a time of their own
            return held(response, Hold(self._answers, admission.sharer))
        request.body.is_overdue = lambda: watch.is_overdue
        if match.route.body != "none":
            watch.expect_body(self.config.settings["body_timeout"], lambda: request.body.is_awaited)
        request.upload_rules = record.upload_rules = UploadRules(admission.caller.key)
        request.check_form = lambda texts, field: self._guard.check_form(presented, texts, field)
        request_hold, hold = Hold(self._requests, admission.sharer), Hold(self._answers, admission.sharer)
        keeps_files = bool(self.config.stores)
        body = JsonBody(request, self.config.settings, request_hold, self.config.providers, presented, keeps_files)
        try:
            match, target = self._find_target(match, admission, body, watch)
            record.note_target(target)
            # JSON has no back-pressure: what a slow client has sent of it stays in memory until the rest has come.
            moved = no_bytes if match.route.body == "json" else lambda: request.body.size
            _limit_transfer(watch, target.settings, moved)
            call = self._make_call(request, match, target, admission, body, record)
            call = self._inlining.completed(call, match, admission, target, record, body.may_have_file_ids)
            watch.follows_client = call.expects == "bytes" or call.is_generated
            answer = self._perform(call, target, admission, hold)
        except BaseException:
            hold.release()
            raise
        finally:
            body.release()
        try:
            if call.expects == "bytes":
                answer = partial(answer, call.headers)
                if not request.sees_a_cut and request.method != "HEAD":
                    answer = with_length(answer)
            return held(response_to(answer, match, target, record), hold)
        except BaseException:
            hold.release()
            if answer.body:
                answer.body.close()
            raise

    def _perform(self, call: Call, target: Target, admission: Admission, hold: Hold) -> Answer:
        """The answer to a call; where owners are kept apart, within what the caller's owner has."""
        caller = admission.caller
        if caller.name in self.config.shared.for_chats.get(target.name, ()) and target.is_saved:
            refuse_file_ids(call)
        is_counted = call.operation in UPLOADS and caller.key is not None and caller.key.has_limits
        is_isolated = bool(target.account or is_counted)
        if not is_isolated or (target.account and self._isolation().is_plainly_own(call, target)):
            return run(call, target, self.transports, hold=hold)

        def perform(asked: Call, seen: Callable[[bytes], None] | None) -> Answer:
            return run(asked, target, self.transports, hold=hold, seen=seen)

        aside = Hold(self._answers, admission.sharer)
        side = SideCalls(target, self.transports, aside, call.timeout)
        try:
            return self._isolation().answer(call, target, caller, perform, side, aside)
        finally:
            side.end()

    def _isolation(self) -> Isolation:
        """What keeps owners apart. Its ledger is opened by the first request that needs it: forking before is safe."""
        if self._isolated is not None:
            return self._isolated
        with self._opening:
            if self._isolated is None:
                ledger = FolderLedger(self.config.shared.ledger)
                if ledger.is_new:
                    _log.warning(
                        "A new ledger is in %s: nobody owns what is at providers yet.", self.config.shared.ledger
                    )
                self._isolated = Isolation(ledger, self.config.settings, self._kept_bytes)
            return self._isolated

    def _kept_bytes(self, caller: Caller) -> int:
        """The bytes that the caller's owner has in all stores."""
        config = self.config
        targets = [store_target(name, Head({}, ""), caller, config, self._providers) for name in config.stores]
        return sum(self._kept_files(target).stored_bytes() for target in targets)

    def _only_own(self, admission: Admission) -> Callable[[list[Json], Target], list[Json]]:
        """What leaves of a target's list of models those that the caller may see."""

        def only(models: list[Json], target: Target) -> list[Json]:
            if not target.account:
                return models
            return self._isolation().only_own_models(models, target, admission.caller)

        return only

    def _kept_files(self, store: Target) -> KeptFiles:
        """The kept files of a store's target."""
        transport: Any = self.transports[store.base_url.partition(":")[0]]  # see `is_store` in `calls.Provider`
        found: KeptFiles = transport.kept_files(store)
        return found

    def _admit(self, request: Request, match: Match, record: Record) -> Admission:
        if self.this_machine_only:
            require_this_machine(request)
        admission = self._gate.admit(request)
        record.note_caller(admission.caller)
        permit(admission.caller, match.route.operation)
        return admission

    def _find_target(self, match: Match, admission: Admission, body: JsonBody, watch: Watch) -> tuple[Match, Target]:
        """The target, and the match without the provider that its model named."""
        if match.model:
            named, model = split_model(match.model, self.config.providers)
            return match._replace(model=model), admission.target_by_model(lambda: named)
        if match.route.body != "json":
            return match, admission.files_target if match.route.operation in FILE_OPERATIONS else admission.target
        # The model may name the provider, so the body may be read before the provider's own limits are known.
        _limit_transfer(watch, self.config.settings)
        return match, admission.target_by_model(body.named_provider)

    def _make_call(
        self, request: Request, match: Match, target: Target, admission: Admission, body: JsonBody, record: Record
    ) -> Call:
        own, timeout = admission.headers_to(target), request.time_limit() or admission.portkey_config.timeout
        self._notes.note(record, request.headers, admission.portkey_config, target.provider)
        value = body.value if match.route.body == "json" else None
        call = HANDLERS[match.route.operation](request, match, target, value)  # may read the beginning of the body
        headers, ignored = passed_on(request.headers, own, call.headers, target.settings["forward_headers"])
        record.ignored += ignored
        record.upload = call.upload
        return call._replace(headers=headers, timeout=timeout, now=record.started, watch=record.watch)

    def _send(
        self, response: Response, environ: WSGIEnvironment, start_response: StartResponse, record: Record
    ) -> Iterable[bytes]:
        watch = record.watch or Watch()

        def done(sent: int, error: str) -> None:
            if error and watch.is_overdue:
                watch.cut()  # the watchdog has woken the thread; the server may end the connection as it always does
            elif not error:
                watch.complete()
            is_slow = error == "client_aborted" and watch.is_overdue
            self._finish(record, response.status, sent, "client_timeout" if is_slow else error)

        stream = respond(response, environ["REQUEST_METHOD"], start_response, done, watch.cut)
        if isinstance(stream, ResponseStream):
            watch.is_answering = True
            watch.cuts_by_reset = not isinstance(response.body, EventStream)
            if watch.cuts_by_reset:
                watch.transfer(lambda: stream.delivered)
                if has_no_framing(response, environ):
                    watch.begin_unmeasured()
        return stream


def _limit_transfer(watch: Watch, settings: Mapping[str, Any], moved: Callable[[], int] = no_bytes) -> None:
    """Limit the transfer of the request to the time in these settings. The bytes that `moved` counts extend it."""
    watch.total, watch.min_rate = settings["total_timeout"], settings["min_rate"]
    watch.transfer(moved)


def _where(error: BaseException) -> str:
    """A traceback without the exception's text, which may contain a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
