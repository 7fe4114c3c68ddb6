"""`filesproxy files` for files at providers: what the operator sees of the ledger, and does with it."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace

import pytest
import webtest
from configurations import hashed
from fakes import form, form_type
from shared_account import Account, Owner, sections
from strict_openai import KEY, StrictOpenAI

from filesproxy import create_app
from filesproxy.calls import Allowance
from filesproxy.serving import accounts, cli
from filesproxy.transports.local.ledger import FolderLedger


@pytest.fixture
def provider():
    with StrictOpenAI() as fake:
        yield fake
        assert fake.problems == []


@pytest.fixture
def config(tmp_path, provider, monkeypatch):
    """The path of a configuration with two teams on one provider key."""
    path = tmp_path / "filesproxy.ini"
    path.write_text(
        f"[filesproxy]\nledger = {tmp_path}/ledger\ndefault_provider = openai\n"
        f"[provider:openai]\nkind = openai\nbase_url = {provider.base_url}\nfiles = own\ncredential = {KEY}\n"
        f"[key:retail]\nsha256 = {hashed('fp_retail')}\nproviders = *\n"
        f"[key:treasury]\nsha256 = {hashed('fp_treasury')}\nproviders = *\n"
    )
    path.chmod(0o600)
    monkeypatch.setenv("FILESPROXY_CONFIG", str(path))
    return path


@pytest.fixture
def client(config):
    return webtest.TestApp(create_app(str(config)), extra_environ={"HTTP_HOST": "localhost"})


@pytest.fixture
def ledger(tmp_path, client):
    return FolderLedger(str(tmp_path / "ledger"))


@pytest.fixture
def files(config, files_command):
    """Runs a verb by this configuration, and sees that it prints no credential."""

    def call(*words):
        status, shown, err = files_command(*words)
        assert KEY not in "".join(shown) + err
        return status, shown, err

    return call


def upload(client, team, content=b"hello", name="a.jsonl", **fields):
    body = form(("purpose", "batch"), *fields.items(), ("file", name, "text/plain", content))
    headers = {"x-portkey-api-key": f"fp_{team}", "content-type": form_type()}
    return client.post("/v1/files", body, headers=headers).json


def listed(client, team):
    return [file["id"] for file in client.get("/v1/files", headers={"x-portkey-api-key": f"fp_{team}"}).json["data"]]


def test_list_shows_whose_the_files_at_a_provider_are(client, files):
    one, two = upload(client, "retail"), upload(client, "treasury", b"", "b\u2028.txt")
    status, shown, err = files("list")
    assert (status, err, shown[-1]) == (0, "", "2 files (5 bytes) at openai")
    assert [line.split("  ")[:3] for line in shown[:-1]] == [[one["id"], "retail", "5"], [two["id"], "treasury", "0"]]
    assert shown[1].endswith("stays  b\\u2028.txt")
    assert files("list", "--owner", "retail", "--provider", "openai")[1] == [shown[0], "1 file (5 bytes) at openai"]


def test_audit_says_who_uploaded_what_and_when_through_which_key(client, files, ledger):
    made = upload(client, "retail")
    client.delete(f"/v1/files/{made['id']}", headers={"x-portkey-api-key": "fp_retail"})
    status, (line,), _ = files("list", "--json")
    row = json.loads(line)
    assert status == 0 and row.pop("deleted_at") >= row.pop("recorded_at") > 1_700_000_000
    assert row == {
        "id": made["id"], "account": "openai", "owner": "retail", "key": "retail", "bytes": 5, "filename": "a.jsonl",
        "created_at": made["created_at"], "expires_at": None, "purpose": "batch",
        "sha256": hashlib.sha256(b"hello").hexdigest(),
    }  # fmt: skip


def test_what_one_owner_has_is_given_to_another(client, files):
    made = upload(client, "retail")["id"]
    assert files("adopt", "--from", "retail", "--to", "treasury") == (
        0, ["1 object of retail at openai given to treasury; running gateways know it within a minute"], "",
    )  # fmt: skip
    assert (listed(client, "retail"), listed(client, "treasury")) == ([], [made])


def test_adoption_needs_a_name_that_an_owner_can_have(files):
    status, _, err = files("adopt", "--from", "retail", "--to", "A B")
    assert status == 2 and "--to must be a name" in err


def test_file_is_deleted_at_the_provider_whoever_has_it(client, files, provider):
    made = upload(client, "retail")["id"]
    assert files("delete", "--provider", "openai", made) == (0, ["1 file deleted at openai"], "")
    assert provider.files == {} and listed(client, "retail") == []
    status, shown, _ = files("delete", "--provider", "openai", made, "../models")
    assert status == 1
    assert shown == [f"{made}: the provider does not have it", "0 files deleted at openai"]
    assert files("delete", "--provider", "openai", made)[0] == 1


def test_sweep_deletes_at_the_provider_what_has_expired_by_the_ledger(client, files, provider, monkeypatch):
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    old, kept = upload(client, "retail", **fields)["id"], upload(client, "retail")["id"]
    assert files("sweep") == (0, ["1 file deleted at openai after expiry"], "")  # the fake lives in 2023
    assert list(provider.files) == [kept] and old not in listed(client, "retail")
    assert files("sweep")[1] == ["0 files deleted at openai after expiry"]


def test_files_that_nobody_owns_are_listed_adopted_and_deleted(client, files, provider):
    mine = upload(client, "retail")["id"]
    one, two = provider.seed(2)
    status, shown, _ = files("orphans")
    assert (status, shown[-1]) == (0, "2 files at openai that nobody owns")
    assert {line.split("  ")[0] for line in shown[:-1]} == {one, two}
    assert files("orphans", "--to", "treasury", one) == (0, ["1 file given to treasury"], "")
    assert files("orphans", "--delete", two) == (0, ["1 file deleted at openai"], "")
    assert listed(client, "treasury") == [one] and listed(client, "retail") == [mine]
    assert set(provider.files) == {mine, one}


def test_file_of_an_owner_is_no_orphan(client, files, provider):
    mine = upload(client, "retail")["id"]
    assert files("orphans", "--delete", mine) == (
        1, [f"{mine}: no file that nobody owns", "0 files deleted at openai"], "",
    )  # fmt: skip
    assert mine in provider.files
    assert files("orphans", "--to", "treasury", mine)[0] == 1 and listed(client, "retail") == [mine]


@pytest.mark.parametrize("words", [("--delete",), ("--to", "retail")])
def test_orphans_are_changed_only_by_their_ids(words, files, ledger):
    status, _, err = files("orphans", *words)
    assert status == 2 and "name the ids" in err


def test_orphan_may_be_of_whoever_had_begun_an_upload(client, files, provider, ledger, monkeypatch):
    upload(client, "retail")
    (orphan,) = provider.seed(1)
    created_at = provider.files[orphan][0]["created_at"]
    ledger.begin_upload("openai", "treasury", "night-job", 5, Allowance(), created_at - 10)
    ledger.begin_upload("openai", "retail", "retail", 5, Allowance(), created_at - 2 * 3600)
    _, shown, _ = files("orphans")
    assert shown[0].endswith("  perhaps of treasury (key night-job)")


@pytest.mark.parametrize("words,said", [
    (("verify", "--provider", "openai"), "no provider keeps files here."),
    (("delete", "--provider", "nobody", "file-1"), "--provider must be one of openai"),
    (("verify",), "no provider keeps files here."),
    (("orphans", "--provider", "nobody"), "--provider must be one of openai"),
])  # fmt: skip
def test_verb_that_does_not_fit_is_refused(words, said, files):
    status, _, err = files(*words)
    assert status == 2 and said in err


def test_provider_that_cannot_be_reached_is_said_in_one_line(client, files, config, monkeypatch):
    upload(client, "retail")
    config.write_text(config.read_text().replace("http://127.0.0.1:", "http://127.0.0.1:1/"))
    status, shown, err = files("orphans")
    assert (status, shown) == (1, []) and err.startswith("filesproxy: openai: ") and err.count("\n") == 1


def test_check_names_owners_in_the_ledger_that_no_key_has(client, files, config, capsys):
    upload(client, "retail")
    config.write_text(config.read_text().replace("[key:retail]", "[key:shops]"))
    assert cli.main(("check", "--config", str(config))) == 0
    assert "The ledger has objects of retail, but no gateway key has that owner" in capsys.readouterr().out


def test_check_says_that_the_ledgers_folder_cannot_be_used(config, tmp_path, capsys):
    (tmp_path / "ledger").write_text("a file")
    assert cli.main(("check", "--config", str(config))) == 1
    assert str(tmp_path / "ledger") in capsys.readouterr().err


def test_saved_provider_is_named_once_for_each_account(config):
    found = create_app(str(config)).config
    assert accounts.provider_of_account(found) == {"openai": "openai"}


@pytest.mark.parametrize("strange", [
    {"created_at": 2**70, "bytes": -5, "filename": "\ud800", "purpose": 7, "expires_at": True},
    {"created_at": None, "bytes": 2**63, "filename": None},
])  # fmt: skip
def test_orphan_of_which_the_provider_says_strange_things_is_adopted(strange, files, provider, ledger):
    (orphan,) = provider.seed(1)
    provider.files[orphan][0].update(strange)
    assert files("orphans")[0] == 0
    assert files("orphans", "--to", "retail", orphan) == (0, ["1 file given to retail"], "")
    assert files("list")[1][-1] == "1 file (0 bytes) at openai"


def test_folder_that_others_can_write_to_is_no_place_for_a_ledger(config, tmp_path, capsys):
    (tmp_path / "ledger").mkdir(mode=0o777)
    (tmp_path / "ledger").chmod(0o777)
    assert cli.main(("check", "--config", str(config))) == 1
    assert "The ledger's folder must belong to this user" in capsys.readouterr().err


def test_orphans_named_without_saying_what_to_do_are_refused(files, ledger):
    status, _, err = files("orphans", "file-1")
    assert status == 2 and "say --to NAME or --delete" in err


def test_command_makes_no_ledger(files, tmp_path):
    for words in (("list",), ("orphans",), ("sweep",), ("adopt", "--from", "a", "--to", "b")):
        status, shown, err = files(*words)
        assert (status, shown) == (2, []) and f"there is no ledger in {tmp_path}/ledger" in err
    assert not (tmp_path / "ledger").exists()


def test_owner_that_no_key_has_is_said(client, files, provider):
    made = upload(client, "retail")["id"]
    (orphan,) = provider.seed(1)
    said = "no gateway key has the owner retial: nobody sees its objects until one has"
    assert said in files("orphans", "--to", "retial", orphan)[2]
    assert said in files("adopt", "--from", "retail", "--to", "retial")[2]
    assert made not in listed(client, "retail")


def test_check_names_accounts_in_the_ledger_that_no_section_has(client, config, capsys):
    upload(client, "retail")
    config.write_text(config.read_text().replace("[provider:openai]", "[provider:renamed]").replace(
        "default_provider = openai", "default_provider = renamed"))  # fmt: skip
    assert cli.main(("check", "--config", str(config))) == 0
    assert "write `account = openai` in the section that leads there" in capsys.readouterr().out


def test_results_of_a_batch_that_its_owner_has_not_asked_for_are_no_orphans(tmp_path, monkeypatch, capsys):
    upstream = Account()
    monkeypatch.setattr("filesproxy.serving.accounts.make_transports", lambda: {"https": upstream})
    config = {"filesproxy": {"ledger": str(tmp_path / "ledger"), "default_provider": "openai"}, **sections("a", "b")}
    a, b = (Owner(webtest.TestApp(create_app(config, transports={"https": upstream})), name) for name in "ab")
    batch = a.make("batch")
    results = upstream.finish_batch(batch)
    account = accounts.Account(create_app(config).config, "openai")
    accounts.orphans(account, Namespace(ids=[], to="", delete=False))
    assert "0 files at openai that nobody owns" in capsys.readouterr().out
    assert accounts.orphans(account, Namespace(ids=[results[0]], to="b", delete=False)) == 1
    assert [each.get(f"/files/{results[0]}/content").status_int for each in (a, b)] == [200, 404]
    assert a.get("/batches").status_int == 200


def test_what_a_provider_says_cannot_steer_a_terminal(client, files, provider):
    (orphan,) = provider.seed(1)
    provider.files["file-\x1b[2J"] = provider.files.pop(orphan)
    provider.files["file-\x1b[2J"][0]["id"] = "file-\x1b[2J"
    upload(client, "retail")
    assert "\x1b" not in "".join(files("orphans")[1])
