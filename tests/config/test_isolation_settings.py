"""Which configurations keep owners apart at the accounts that they share, and which are refused with what advice."""

from __future__ import annotations

import pytest
from configurations import SECRET, config, hashed, refusal, written

from filesproxy.transports.https import tls

OPENAI = {"kind": "openai", "credential": SECRET}
ANTHROPIC = {"kind": "anthropic", "credential": SECRET}
VLLM = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "credential": "none"}
LOCAL = {"provider:local": {"folder": "/srv/files"}}
LEDGER = {"filesproxy": {"ledger": "/srv/ledger"}}
CHAT = "create_chat_completion"


def key(name, providers="*", **settings):
    """The section of a gateway key; its owner is its name, if nothing else is said."""
    return {f"key:{name}": {"sha256": hashed(name), "providers": providers, **settings}}


TWO = {**key("retail"), **key("bank")}


def found(*parts, **sections):
    """The isolation of a configuration from these parts."""
    return config({name: section for part in (*parts, sections) for name, section in part.items()}).shared


def refused(*parts, **sections):
    return refusal({name: section for part in (*parts, sections) for name, section in part.items()})


def warnings(*parts):
    return config({name: section for part in parts for name, section in part.items()}).warnings


def both(first, second):
    """Two saved providers, x and y."""
    return {"provider:x": first, "provider:y": second}


# --- who needs a ledger


def test_without_providers_and_keys_nothing_is_kept_apart():
    isolation = config().shared
    assert (isolation.ledger, isolation.accounts, isolation.for_chats) == ("", {}, {})


def test_owners_who_share_files_without_a_ledger_stop_the_start_and_three_lines_that_help_are_named():
    assert refused({"provider:x": OPENAI}, TWO) == (
        "[provider:x]: the owners bank and retail may have files and other objects at x, and nothing remembers whose "
        "they are. One of these lines helps: `ledger = FOLDER` in [filesproxy], which keeps them apart; `isolation = "
        "no` in [filesproxy], if they may share everything; the same `owner = NAME` in their [key:…] sections, if they "
        "are one."
    )


def test_refusal_names_file_and_line_of_the_section(tmp_path):
    text = f"[provider:x]\nkind = openai\ncredential = {SECRET}\n"
    text += "".join(f"[key:{name}]\nsha256 = {hashed(name)}\nproviders = *\n" for name in ("retail", "bank"))
    path = written(tmp_path, text)
    assert refusal(path).startswith(f"{path}, line 1: [provider:x]: the owners bank and retail ")


def test_each_account_that_owners_share_is_named_in_one_refusal():
    message = refused(both(OPENAI, {**ANTHROPIC, "credential": "sk-another-0456"}), TWO)
    assert message.startswith("[provider:x]: the owners bank and retail may have files and other objects at x and y, ")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "advice",
    [
        LEDGER,
        {"filesproxy": {"isolation": "no"}},
        {**key("retail", owner="acme"), **key("bank", owner="acme")},
        {**key("retail", owner="bank")},
        LOCAL,
    ],
    ids=["ledger", "isolation", "one_owner", "owner_is_the_other_keys_name", "local"],
)
def test_each_line_of_the_advice_helps(advice):
    assert found({"provider:x": OPENAI}, TWO, advice).for_chats == {}


def test_ledger_may_come_from_the_environment_or_a_keyword():
    sections = {"provider:x": OPENAI, **TWO}
    assert config(sections, {"FILESPROXY_LEDGER": "/srv/of-the-environment"}).shared.ledger == (
        "/srv/of-the-environment"
    )
    assert config(sections, ledger="/srv/of-a-keyword").shared.ledger == "/srv/of-a-keyword"
    assert config(sections, isolation=False).shared.accounts == {}


@pytest.mark.parametrize(
    "provider",
    [OPENAI, ANTHROPIC, VLLM, {"kind": "azure-openai", "resource": "acme", "credential": SECRET}],
    ids=["openai", "anthropic", "vllm", "azure"],
)
def test_every_kind_of_saved_provider_keeps_owners_apart(provider):
    assert refused({"provider:x": provider}, TWO).startswith("[provider:x]: the owners bank and retail ")
    isolation = found({"provider:x": provider}, TWO, LEDGER)
    assert (isolation.ledger, isolation.accounts, isolation.for_chats) == ("/srv/ledger", {"x": "x"}, {})


def test_provider_without_a_credential_is_nobodys_account():
    isolation = found({"provider:x": {"kind": "openai", "base_url": "https://x.example/v1"}}, TWO, LEDGER)
    assert (isolation.ledger, isolation.accounts) == ("", {})


def test_keys_of_different_providers_share_nothing():
    keys = {**key("retail", "x"), **key("bank", "y")}
    providers = both(OPENAI, ANTHROPIC)
    assert found(providers, keys).accounts == found(providers, keys, LOCAL).accounts == {}


def test_several_keys_of_one_owner_need_no_ledger():
    keys = {**key("till", owner="retail"), **key("shop", owner="retail"), **key("retail")}
    isolation = found({"provider:x": OPENAI}, keys)
    assert (isolation.ledger, isolation.accounts, isolation.for_chats) == ("", {}, {})
    assert found({"provider:x": OPENAI}, keys, LOCAL).ledger == ""


def test_saved_provider_that_anybody_on_this_machine_may_use_needs_none():
    assert found({"provider:x": OPENAI, "filesproxy": {"open_access": "yes"}}).ledger == ""


@pytest.mark.parametrize("operation", ["upload_file", "list_files", "create_response", "retrieve_batch_output",
                                       "delete_model", "create_container", "search_vector_store"])  # fmt: skip
def test_one_operation_that_makes_or_takes_ids_is_enough(operation):
    keys = {**key("retail", operations=operation), **key("bank", operations=f"{CHAT} {operation}")}
    assert "the owners bank and retail" in refused({"provider:x": OPENAI}, keys)


# --- keys for chats alone


@pytest.mark.parametrize("operations", [CHAT, f"{CHAT} list_models retrieve_model create_embedding"])
def test_key_for_chats_alone_needs_no_ledger_and_is_known_as_such(operations):
    keys = {**key("retail"), **key("bank", operations=operations), **key("shop", operations=CHAT)}
    isolation = found({"provider:x": OPENAI}, keys)
    assert (isolation.ledger, isolation.accounts) == ("", {})
    assert isolation.for_chats == {"x": {"bank", "shop"}}
    assert warnings({"provider:x": OPENAI}, keys) == ()


def test_with_a_ledger_chats_are_judged_by_it():
    keys = {**key("retail"), **key("bank", operations=CHAT)}
    isolation = found({"provider:x": OPENAI}, keys, LEDGER)
    assert (isolation.accounts, isolation.for_chats) == ({"x": "x"}, {})
    assert found({"provider:x": OPENAI}, keys, LOCAL).accounts == {"x": "x"}


def test_where_nobody_has_files_or_only_one_owner_comes_no_key_is_for_chats_alone():
    chats = {**key("retail", operations=CHAT), **key("bank", operations=CHAT)}
    assert found({"provider:x": OPENAI}, chats).for_chats == {}
    one = {**key("retail"), **key("till", operations=CHAT, owner="retail")}
    assert found({"provider:x": OPENAI}, one).for_chats == {}


def test_key_with_files_at_one_provider_of_an_account_is_not_for_chats_alone_there():
    acme = {**ANTHROPIC, "account": "acme"}
    keys = {**key("retail", "x y"), **key("bank", "x")}
    isolation = found(both({**acme, "files": "none"}, acme), keys)
    assert "bank" in isolation.for_chats["x"]
    assert "retail" not in isolation.for_chats["y"]


@pytest.mark.parametrize("files", ["local", "none"])
def test_file_operations_do_not_count_where_files_are_elsewhere(files):
    stores = {"provider:local": {"folder": "/srv/files"}, "provider:other": {"kind": "local", "folder": "/srv/other"}}
    keys = {name: {**section, "operations": f"{CHAT} upload_file list_files"} for name, section in TWO.items()}
    assert found(stores, keys, {"provider:x": {**OPENAI, "files": files}}).accounts == {}
    assert "the owners bank and retail" in refused(stores, keys, {"provider:x": OPENAI})
    assert "the owners bank and retail" in refused(stores, TWO, {"provider:x": {**OPENAI, "files": files}})


def test_provider_that_has_chats_and_files_alone_is_not_shared_if_its_files_are_elsewhere():
    isolation = found({"provider:x": {**ANTHROPIC, "files": "none"}}, TWO)
    assert (isolation.ledger, isolation.accounts, isolation.for_chats) == ("", {}, {})
    assert found({"provider:x": {**ANTHROPIC, "files": "local"}}, TWO, LOCAL).accounts == {}


# --- where the ledger is


def test_folder_of_local_has_the_ledger_where_no_other_is_named():
    assert found({"provider:x": OPENAI}, TWO, LOCAL).ledger == "/srv/files"
    assert found({"provider:x": OPENAI}, TWO, {"provider:kept": {"kind": "local", "folder": "/srv/kept"}}).ledger == (
        "/srv/kept"
    )
    assert found({"provider:x": OPENAI}, TWO, LOCAL, LEDGER).ledger == "/srv/ledger"


def test_folder_of_local_has_no_ledger_that_nobody_needs():
    assert found(LOCAL, TWO).ledger == ""
    assert found({"provider:x": OPENAI}, key("retail"), LOCAL).ledger == ""


def test_of_two_local_folders_neither_has_the_ledger():
    stores = {**LOCAL, "provider:other": {"kind": "local", "folder": "/srv/other"}}
    assert "`ledger = FOLDER`" in refused({"provider:x": OPENAI}, TWO, stores)
    assert found({"provider:x": OPENAI}, TWO, stores, LEDGER).ledger == "/srv/ledger"


def test_two_providers_of_one_local_folder_are_one():
    stores = {**LOCAL, "provider:other": {"kind": "local", "folder": "/srv/files"}}
    assert found({"provider:x": OPENAI}, TWO, stores).ledger == "/srv/files"


def test_ledger_that_is_named_keeps_the_account_of_one_owner_too():
    """So that nothing is forgotten until a second owner comes."""
    for keys in (key("retail"), {**key("till", owner="retail"), **key("shop", owner="retail")}):
        isolation = found({"provider:x": OPENAI}, keys, LEDGER)
        assert (isolation.ledger, isolation.accounts) == ("/srv/ledger", {"x": "x"})
    chats = found({"provider:x": OPENAI}, key("retail", operations=CHAT), LEDGER)
    assert (chats.ledger, chats.accounts) == ("", {})


def test_isolation_that_is_switched_off_keeps_nothing_apart_and_warns():
    off = {"filesproxy": {"ledger": "/srv/ledger", "isolation": "no"}}
    isolation = found({"provider:x": OPENAI}, TWO, off)
    assert (isolation.ledger, isolation.accounts, isolation.for_chats) == ("", {}, {})
    assert warnings({"provider:x": OPENAI}, TWO, off) == (
        "The keys retail, bank share the files of the saved provider x.",
    )


def test_accounts_that_are_kept_apart_cause_no_warning():
    assert warnings({"provider:x": OPENAI}, TWO, LEDGER) == warnings({"provider:x": OPENAI}, TWO, LOCAL) == ()


# --- one identity, one account

TWINS = {
    "openai": (OPENAI, OPENAI),
    "openai by its address": (OPENAI, {**OPENAI, "base_url": "https://api.openai.com/v1"}),
    "another path": ({**OPENAI, "base_url": "https://h.example/v1"}, {**OPENAI, "base_url": "https://h.example/v2"}),
    "another case": ({**OPENAI, "base_url": "https://h.example/v1"}, {**OPENAI, "base_url": "https://H.Example/v1"}),
    "no credential": (VLLM, VLLM),
    "azure by resource and by address": (
        {"kind": "azure-openai", "resource": "Acme", "credential": SECRET},
        {"kind": "azure-openai", "base_url": "https://acme.openai.azure.com/openai", "credential": SECRET},
    ),
    "azure as openai": (
        {"kind": "azure-openai", "resource": "acme", "credential": SECRET},
        {"kind": "openai", "base_url": "https://acme.openai.azure.com/openai/v1", "credential": SECRET},
    ),
    "port written out": (
        {**OPENAI, "base_url": "https://h.example/v1"},
        {**OPENAI, "base_url": "https://h.example:443/v1"},
    ),
}
#: who may use x and y: both, one each, or one for chats alone
SHARED = {
    "both": TWO,
    "one each": {**key("retail", "x"), **key("bank", "y")},
    "chats": {**key("retail", "x"), **key("bank", "y", operations=CHAT)},
}
SAME = "y and x have the same address and credential: write `account = {}` in [provider:y]."


@pytest.mark.parametrize("keys", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("first,second", TWINS.values(), ids=TWINS)
def test_two_names_of_one_identity_must_name_one_account(first, second, keys):
    assert refused(both(first, second), keys, LEDGER) == f"[provider:y]: {SAME.format('x')}"
    one = both({**first, "account": "acme"}, {**second, "account": "acme"})
    assert found(one, keys, LEDGER).accounts == {"x": "acme", "y": "acme"}
    assert found(both(first, {**second, "account": "x"}), keys, LEDGER).accounts == {"x": "x", "y": "x"}


def test_accounts_of_one_identity_are_refused_without_a_ledger_too_and_then_need_one():
    keys = SHARED["one each"]
    assert refused(both(OPENAI, OPENAI), keys) == f"[provider:y]: {SAME.format('x')}"
    one = both({**OPENAI, "account": "acme"}, {**OPENAI, "account": "acme"})
    assert refused(one, keys).startswith("[provider:x]: the owners bank and retail ")


def test_name_of_an_identity_that_nobody_uses_hides_no_other_two():
    providers = {"provider:unused": OPENAI, **both(OPENAI, OPENAI)}
    assert "y and unused have the same address" in refused(providers, SHARED["one each"], LEDGER)


def test_two_different_accounts_of_one_identity_are_refused():
    providers = both({**OPENAI, "account": "one"}, {**OPENAI, "account": "two"})
    assert refused(providers, TWO, LEDGER) == f"[provider:y]: {SAME.format('one')}"


@pytest.mark.parametrize("keys", [key("retail"), {**key("a", "x", owner="retail"), **key("b", "y", owner="retail")}])
def test_one_owner_may_have_two_names_of_one_identity(keys):
    assert found(both(OPENAI, OPENAI), keys).accounts == {}


def test_isolation_that_is_switched_off_asks_for_no_account():
    assert found(both(OPENAI, OPENAI), TWO, {"filesproxy": {"isolation": "no"}}).accounts == {}


APART = {
    "another credential": (OPENAI, {**OPENAI, "credential": "sk-another-0456"}),
    "another host": (OPENAI, {**OPENAI, "base_url": "https://h.example/v1"}),
    "another port": (VLLM, {**VLLM, "base_url": "http://127.0.0.1:8001/v1"}),
    "another resource": (
        {"kind": "azure-openai", "resource": "acme", "credential": SECRET},
        {"kind": "azure-openai", "resource": "beta", "credential": SECRET},
    ),
    "another kind": (OPENAI, ANTHROPIC),
}


@pytest.mark.parametrize("first,second", APART.values(), ids=APART)
def test_different_identities_are_accounts_of_their_own_unless_they_name_one(first, second):
    assert found(both(first, second), TWO, LEDGER).accounts == {"x": "x", "y": "y"}
    rotated = both({**first, "account": "acme"}, {**second, "account": "acme"})
    assert found(rotated, TWO, LEDGER).accounts == {"x": "acme", "y": "acme"}


@pytest.fixture
def certificates(tmp_path, monkeypatch):
    """The paths of two client certificates; what is in them does not matter."""
    monkeypatch.setattr(tls, "context", lambda own: None)
    paths = [tmp_path / name for name in ("one.pem", "two.pem")]
    for path in paths:
        path.write_text("a certificate")
    return list(map(str, paths))


def test_client_certificate_is_a_credential_too(certificates):
    one, two = ({**VLLM, "base_url": "https://h.example/v1", "client_cert": path} for path in certificates)
    assert refused(both(one, one), TWO, LEDGER) == f"[provider:y]: {SAME.format('x')}"
    assert found(both(one, two), TWO, LEDGER).accounts == {"x": "x", "y": "y"}


def test_account_cannot_be_named_where_files_are_kept():
    message = refused({"provider:local": {"folder": "/srv/files", "account": "acme"}})
    assert message == "[provider:local]: a provider of kind local has no setting account."


# --- what keys may have

LIMITS = ["max_stored_bytes", "max_uploads_per_minute"]


@pytest.mark.parametrize("limit", LIMITS)
def test_limit_without_a_ledger_is_refused(limit):
    message = refused({"provider:x": OPENAI}, key("retail", **{limit: "5"}))
    assert message == f"[key:retail]: {limit} needs `ledger = FOLDER` in [filesproxy]."


def test_stored_bytes_at_providers_cannot_be_limited_where_nothing_counts_them():
    shared, limited = {"filesproxy": {"isolation": "no", "ledger": "/srv/l"}}, key("retail", max_stored_bytes="5")
    message = refused({"provider:x": OPENAI}, limited, shared)
    assert message == "[key:retail]: with isolation = no, nothing counts the files that the key has at providers."
    assert found(LOCAL, {**limited}, {"filesproxy": {"isolation": "no"}}).ledger == "/srv/files"


@pytest.mark.parametrize("limit", LIMITS)
def test_limit_is_counted_by_the_ledger_of_one_owner_too(limit):
    limited = key("retail", **{limit: "5"})
    assert found({"provider:x": OPENAI}, limited, LEDGER).accounts == {"x": "x"}
    of_local = found({"provider:x": OPENAI}, limited, LOCAL)
    # Bytes are counted by the rows of files, uploads alone need none.
    assert (of_local.ledger, of_local.accounts) == ("/srv/files", {"x": "x"} if limit == "max_stored_bytes" else {})
    (only,) = config({**LOCAL, **limited}).keys
    assert getattr(only, limit) == 5 and only.has_limits


@pytest.mark.parametrize("text,is_open", [("yes", True), ("no", False)])
def test_key_may_use_what_is_older_than_the_ledger_if_it_says_so(text, is_open):
    (only,) = config(key("retail", foreign_ids=text)).keys
    assert only.foreign_ids is is_open
    assert config(key("retail")).keys[0].foreign_ids is False


@pytest.mark.parametrize("text", ["own", "all"])
def test_key_sees_its_own_or_all(text):
    (only,) = config(key("retail", sees=text)).keys
    assert only.sees == text
    assert config(key("retail")).keys[0].sees == "own"


@pytest.mark.parametrize("name,text,message", [
    ("sees", "others", "sees must be own or all."),
    ("foreign_ids", "some", "foreign_ids must be yes or no."),
    ("max_stored_bytes", "-1", "max_stored_bytes must be "),
    ("max_uploads_per_minute", "often", "max_uploads_per_minute must be "),
])  # fmt: skip
def test_what_a_key_cannot_have_is_refused(name, text, message):
    assert refused(key("retail", **{name: text})).startswith(f"[key:retail]: {message}")


def test_key_that_sees_all_is_an_owner_like_the_others():
    keys = {**key("audit", sees="all", operations="list_files"), **key("bank")}
    assert "the owners audit and bank" in refused({"provider:x": OPENAI}, keys)
    assert found({"provider:x": OPENAI}, keys, LEDGER).accounts == {"x": "x"}
