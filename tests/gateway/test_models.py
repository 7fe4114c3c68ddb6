"""GET /v1/models: of one provider, or of every saved provider that the caller may chat with."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from wsgiref.util import setup_testing_defaults

import pytest
import webtest
from configurations import hashed
from fakes import FakeBody
from sockets import WAIT, ask, request, served

from filesproxy import create_app
from filesproxy.calls import Answer, Call, Target
from filesproxy.errors import FilesproxyError, Saturated, UpstreamAnswered, UpstreamError, UpstreamTimeout
from filesproxy.gateway.models import AT_A_TIME, MAX_LIST_BYTES, MAX_REMEMBERED, MAX_REMEMBERED_BYTES, ModelLists
from filesproxy.providers import PROVIDERS

CLAUDE = {"id": "claude-5", "type": "model", "display_name": "Claude 5", "created_at": "2026-01-01T00:00:00Z"}


def model(name):
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "a lab"}


class Hosts:
    """A transport that answers the models of each host, by its name: JSON, or an exception to raise."""

    def __init__(self, **answers):
        self.answers = answers
        self.calls, self.targets, self.bodies = [], [], []

    def __call__(self, call, target):
        self.calls.append(call)
        self.targets.append(target)
        found = self.answers[call.url.split("/")[2].partition(".")[0]]
        if isinstance(found, Exception):
            raise found
        status = found.pop("status", 200) if "status" in found else 200
        self.bodies.append(FakeBody([json.dumps(found).encode()]))
        return Answer(status, {}, body=self.bodies[-1])


def section(name, **more):
    return {"kind": "openai", "base_url": f"https://{name}.example/v1", "credential": f"sk-saved-{name}", **more}


SECTIONS = {
    "filesproxy": {"isolation": "no"},
    "provider:one": section("one"),
    "provider:two": section("two", credential="none"),
    "provider:claude": section("claude", kind="anthropic"),
    "provider:local": {"folder": "/nonexistent"},
    "provider:plain": {"kind": "openai", "base_url": "https://plain.example/v1"},
    "key:all": {"sha256": hashed("fp_all"), "providers": "*"},
    "key:few": {"sha256": hashed("fp_few"), "providers": "two"},
    "key:files": {"sha256": hashed("fp_files"), "providers": "*", "operations": "list_models list_files"},
    "key:chat": {"sha256": hashed("fp_chat"), "providers": "*", "operations": "create_chat_completion"},
}


def every():
    return Hosts(
        one={"object": "list", "data": [model("gpt-4o"), model("ft:gpt-4o:acme::a1")]},
        two={"object": "list", "data": [{**model("meta-llama/Llama-3.1-8B"), "max_model_len": 4096}]},
        claude={"data": [CLAUDE], "has_more": False},
    )


def asked(hosts, headers=None, status=200, sections=SECTIONS, path="/v1/models", **settings):
    application = create_app(sections, transports={"https": hosts}, **settings)
    client = webtest.TestApp(application, extra_environ={"HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1"})
    return client.get(path, headers={"x-portkey-api-key": "fp_all", **(headers or {})}, status=status)


def ids(reply):
    return [each["id"] for each in reply.json["data"]]


def test_models_of_every_saved_provider_are_listed_by_the_name_that_chats_them():
    hosts = every()
    reply = asked(hosts)
    assert ids(reply) == ["@one/gpt-4o", "@one/ft:gpt-4o:acme::a1", "@two/meta-llama/Llama-3.1-8B", "@claude/claude-5"]
    assert reply.json["object"] == "list" and reply.headers["cache-control"] == "no-store"
    assert reply.json["data"][2] == {**model("@two/meta-llama/Llama-3.1-8B"), "max_model_len": 4096}
    created = {"object": "model", "created": 1767225600, "owned_by": "anthropic", "display_name": "Claude 5"}
    assert reply.json["data"][3] == {"id": "@claude/claude-5", **created}
    assert "x-filesproxy-ignored" not in reply.headers and all(body.closed for body in hosts.bodies)
    credentials = {call.url.split("/")[2]: set(call.headers) for call in hosts.calls}
    assert credentials == {"one.example": {"authorization"}, "two.example": set(),
                           "claude.example": {"x-api-key", "anthropic-version"}}  # fmt: skip


@pytest.mark.parametrize(
    "key,expected", [("fp_few", ["@two/meta-llama/Llama-3.1-8B"]), ("fp_files", None), ("fp_chat", None)]
)
def test_key_sees_only_providers_that_it_may_use_for_chats(key, expected):
    hosts = every()
    reply = asked(hosts, {"x-portkey-api-key": key}, 200 if expected else "*")
    assert (ids(reply) if reply.status_int == 200 else None) == expected
    assert {call.url.split("/")[2] for call in hosts.calls} == ({"two.example"} if expected else set())
    if key == "fp_chat":
        assert reply.status_int == 403  # the operation itself is not for this key


@pytest.mark.parametrize("headers", [{"x-portkey-provider": "@one"}, {"x-portkey-virtual-key": "one"}])
def test_named_provider_is_asked_alone_and_its_answer_is_unchanged(headers):
    hosts = every()
    assert asked(hosts, headers, path="/v1/models?limit=5").json == every().answers["one"]
    assert [dict(call.query) for call in hosts.calls] == [{"limit": "5"}]


def test_without_a_saved_provider_the_default_one_is_asked_as_for_any_call():
    hosts = Hosts(api={"object": "list", "data": [model("gpt-4o")]})
    headers = {"authorization": "Bearer sk-caller"}
    assert ids(asked(hosts, headers, sections={}, default_provider="openai")) == ["gpt-4o"]
    assert hosts.calls[0].headers["authorization"] == "Bearer sk-caller"
    assert asked(hosts, headers, 400, sections={}).json["error"]["code"] == "unknown_provider"


@pytest.mark.parametrize(
    "odd", [{"origin": "http://evil.example"}, {"x-forwarded-for": "1.2.3.4"}, {"host": "a.example"}]
)
def test_without_keys_only_this_machine_sees_the_saved_providers(odd):
    sections = {**{name: own for name, own in SECTIONS.items() if not name.startswith("key:")},
                "filesproxy": {"open_access": "yes", "default_provider": "one"}}  # fmt: skip
    assert len(ids(asked(every(), sections=sections))) == 4
    hosts = every()
    asked(hosts, odd, 403, sections=sections)
    assert hosts.calls == []


def test_header_that_would_change_the_scope_of_a_saved_provider_is_400():
    hosts = every()
    asked(hosts, {"openai-organization": "org-other"}, 400)
    assert hosts.calls == []


MISSING = {
    "unreachable": UpstreamError("Cannot connect."),
    "refuses": {"status": 401, "error": {"message": "no"}},
    "fails": {"status": 500, "error": {"message": "no"}},
    "no_list": {"object": "list"},
    "data_is_null": {"data": None},
    "model_without_an_id": {"data": [{"object": "model"}]},
    "model_is_text": {"data": ["gpt-4o"]},
    "bug": ValueError("sk-secret"),
}


@pytest.mark.parametrize("name", MISSING)
def test_provider_that_does_not_answer_with_a_list_is_named_and_the_others_are_there(name):
    hosts = every()
    hosts.answers["one"] = MISSING[name] if isinstance(MISSING[name], Exception) else dict(MISSING[name])
    reply = asked(hosts)
    assert ids(reply) == ["@two/meta-llama/Llama-3.1-8B", "@claude/claude-5"]
    assert reply.headers["x-filesproxy-ignored"] == "@one" and "secret" not in reply.text


REFUSED = UpstreamAnswered(404, {"message": "No such route.", "type": "x", "param": None, "code": "none"}, {})
DEAD = {
    "unreachable": (UpstreamError("Cannot connect.", code="upstream_unreachable", detail="h:1"), 502),
    "silent": (UpstreamTimeout("Too long.", detail="h:1"), 504),
    "out_of_memory": (Saturated("No room.", detail="h:1"), 503),
    "refuses": (REFUSED, 502),
}


@pytest.mark.parametrize("name", DEAD)
def test_list_of_nobody_is_an_error_and_not_an_empty_list(name, access_log):
    failure, status = DEAD[name]
    reply = asked(Hosts(one=failure, two=failure, claude=failure), status=status)
    assert reply.json["error"]["code"] == access_log()[-1]["error"] == failure.code
    assert access_log()[-1].get("detail", "") == failure.detail


def test_credential_that_a_provider_repeats_is_redacted():
    hosts = every()
    hosts.answers["one"]["data"][0]["owned_by"] = "sk-saved-one"
    hosts.answers["two"]["data"][0]["owned_by"] = "sk-saved-claude"
    assert "sk-saved" not in asked(hosts).text


def test_models_of_anthropic_are_walked_to_the_end():
    hosts = every()
    pages = [{"data": [{**CLAUDE, "id": f"claude-{n}"}], "has_more": n < 3, "last_id": "x"} for n in range(1, 4)]

    class Walked(Hosts):
        def __call__(self, call, target):
            self.answers["claude"] = pages[len(self.calls)]
            return super().__call__(call, target)

    walked = Walked(**hosts.answers)
    assert ids(asked(walked, {"x-portkey-provider": "@claude"})) == ["claude-1", "claude-2", "claude-3"]
    assert [call.query.get("after_id") for call in walked.calls] == [None, "claude-1", "claude-2"]


# One model


@pytest.mark.parametrize(
    "path,headers,url",
    [
        ("/v1/models/@one/gpt-4o", {}, "https://one.example/v1/models/gpt-4o"),
        ("/v1/models/%40one%2Fgpt-4o", {}, "https://one.example/v1/models/gpt-4o"),
        ("/v1/models/@two/meta-llama/Llama-3.1-8B", {}, "https://two.example/v1/models/meta-llama/Llama-3.1-8B"),
        ("/v1/models/gpt-4o", {"x-portkey-provider": "@one"}, "https://one.example/v1/models/gpt-4o"),
        ("/v1/models/@cf/meta/llama", {"x-portkey-provider": "@one"}, "https://one.example/v1/models/@cf/meta/llama"),
    ],
)
def test_slug_of_a_model_chooses_its_provider(path, headers, url):
    hosts = Hosts(one=model("gpt-4o"), two=model("meta-llama/Llama-3.1-8B"))
    with served(create_app({**SECTIONS}, transports={"https": hosts})) as server:
        named = {"x-portkey-api-key": "fp_all", **headers}
        reply = ask(server.server_port, request("GET", path, headers=named))
    assert reply.status == 200 and [call.url for call in hosts.calls] == [url]


def test_model_of_anthropic_has_openais_shape():
    hosts = Hosts(claude=CLAUDE)
    found = asked(hosts, path="/v1/models/@claude/claude-5").json
    assert (found["id"], found["object"], found["owned_by"]) == ("claude-5", "model", "anthropic")


def test_provider_of_a_model_that_is_not_for_the_key_is_403():
    hosts = every()
    asked(hosts, {"x-portkey-api-key": "fp_few"}, 403, path="/v1/models/@one/gpt-4o")
    assert hosts.calls == []


# Time, threads, memory


TARGETS = [Target(f"p{number}", PROVIDERS["openai"], "https://a.example") for number in range(20)]
CALL = Call("list_models", "GET", "/models")


def test_at_most_eight_providers_are_asked_at_a_time_whoever_asks():
    running, most, lock, all_in = 0, 0, threading.Lock(), threading.Barrier(AT_A_TIME)

    def asks(call, target):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with contextlib.suppress(threading.BrokenBarrierError):
            all_in.wait(0.3)  # so that all who may run do run
        with lock:
            running -= 1
        return {"data": [model("m")]}

    lists = ModelLists(asks)
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(lists.of(n, CALL, TARGETS))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert most == AT_A_TIME and [len(each.data) for each in found] == [20, 20, 20]


def test_answers_are_remembered_for_a_minute_by_caller_and_incomplete_ones_for_five_seconds():
    now, asks = [0.0], []
    answers = {"p0": True}

    def ask_one(call, target):
        asks.append(target.name)
        if not answers["p0"]:
            raise UpstreamError("Gone.")
        return {"data": [model("m")]}

    lists = ModelLists(ask_one, lambda: now[0])

    def after(seconds, caller="a"):
        now[0] += seconds
        before = len(asks)
        with contextlib.suppress(FilesproxyError):
            lists.of(caller, CALL, TARGETS[:1])
        return len(asks) - before

    assert [after(0), after(59), after(0, "b"), after(2), after(0)] == [1, 0, 1, 1, 0]
    answers["p0"] = False
    assert [after(61), after(4), after(2)] == [1, 0, 1]


def test_remembered_callers_are_bounded():
    lists = ModelLists(lambda call, target: {"data": []})
    for number in range(3 * MAX_REMEMBERED):
        lists.of(number, CALL, TARGETS[:1])
    assert len(lists._known) <= MAX_REMEMBERED


def test_remembered_lists_are_bounded_in_memory_and_what_is_over_its_time_is_dropped():
    """Lists of several MB were kept for each of 128 callers, long after their minute."""
    now, asks = [0.0], []
    third = {"data": [model("m" * (MAX_REMEMBERED_BYTES // 3))]}

    def ask_one(call, target):
        asks.append(target.name)
        return third

    def rounds(*callers):
        before = len(asks)
        for caller in callers:
            assert len(lists.of(caller, CALL, TARGETS[:1]).data) == 1
        return len(asks) - before

    def remembered():
        return sum(each.size for each in lists._known.values())

    lists = ModelLists(ask_one, lambda: now[0])
    assert rounds("a", "b", "a", "b") == 2 and remembered() > MAX_REMEMBERED_BYTES // 2
    assert rounds("c", "c", "c") == 3 and remembered() <= MAX_REMEMBERED_BYTES  # no room: asked each time
    now[0] += 61
    assert rounds("d", "d") == 1 and set(lists._known) == {"d"}
    assert rounds("c", "c") == 1


def test_provider_whose_list_is_too_long_is_left_out():
    """Eight lists of 8 MB took more than a gigabyte while they were put together, outside the budget."""
    hosts = every()
    hosts.answers["one"] = {"data": [model("m" * MAX_LIST_BYTES)]}
    reply = asked(hosts)
    assert ids(reply) == ["@two/meta-llama/Llama-3.1-8B", "@claude/claude-5"]
    assert reply.headers["x-filesproxy-ignored"] == "@one"


def test_callers_who_come_together_share_one_round():
    asks, gate = [], threading.Event()

    def slow(call, target):
        asks.append(target.name)
        gate.wait(WAIT)
        return {"data": [model("m")]}

    lists, found = ModelLists(slow), []
    threads = [threading.Thread(target=lambda: found.append(lists.of("a", CALL, TARGETS[:1]))) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert asks == ["p0"] and [len(each.data) for each in found] == [1] * 5


def test_way_of_the_request_is_passed_on_so_that_a_loop_of_two_gateways_ends():
    hosts = every()
    asked(hosts, {"via": "1.0 other"})
    assert {call.headers["via"] for call in hosts.calls} == {"1.0 other"}
    asked(every(), {"via": "1.1 this"}, 508, via_name="this")


def test_headers_that_nobody_reads_are_named_beside_the_providers_that_are_missing():
    hosts = every()
    hosts.answers["one"] = UpstreamError("Gone.")
    headers = {"x-portkey-cache": "simple", "x-portkey-config": '{"retry": {"attempts": 2}}'}
    reply = asked(hosts, headers)
    assert reply.headers["x-filesproxy-ignored"] == "@one, x-portkey-config.retry, x-portkey-cache"


def test_slow_reader_of_a_long_list_is_ended_by_its_total():
    hosts = Hosts(two={"data": [model(f"model-{number}") for number in range(2000)]})
    application = create_app(SECTIONS, transports={"https": hosts}, total_timeout=5)
    environ = {"PATH_INFO": "/v1/models", "HTTP_X_PORTKEY_API_KEY": "fp_few"}
    setup_testing_defaults(environ)
    body = application(environ, lambda status, headers: None)
    next(body)
    (watch,) = application._watchdog._watches
    watch.check(time.monotonic() + 60)
    assert watch.is_overdue
    body.close()
    assert not application._watchdog._watches
