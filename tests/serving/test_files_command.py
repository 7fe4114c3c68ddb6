"""`filesproxy files` as an operator meets it: what it prints, its exit status, and errors without a traceback."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import sqlite3
from contextlib import closing, suppress

import pytest
from sockets import run
from stores import Clock, ask, content_of, ids, kept_bytes, open_store, upload

from filesproxy.app import create_app
from filesproxy.errors import NotFound, StoreError
from filesproxy.serving import cli
from filesproxy.serving import lines as printed
from filesproxy.serving.files import prepare
from filesproxy.transports.local import maintenance
from filesproxy.transports.local.index import Index
from filesproxy.transports.local.transport import LocalTransport

pytestmark = pytest.mark.usefixtures("no_sweep_by_itself")


def opened(folder):
    return open_store(folder, Clock(1_700_000_000.0))


@pytest.fixture
def files(monkeypatch, files_command, folder):
    """Runs a verb on the store in `folder`."""
    monkeypatch.setenv("FILESPROXY_FOLDER", str(folder))
    return files_command


def test_list_shows_every_file_and_whose_it_is(files, folder, monkeypatch):
    store = opened(folder)
    one = upload(store, b"hello", "team-a", "one.txt")
    two = upload(store, b"", "", "two\u2028\x9b.txt", seconds=3600)
    monkeypatch.setattr(printed.time, "time", lambda: 1_700_000_000.0 + 3 * 86400)
    shown = [
        f"{two['id']}  -  0  2023-11-14T22:13:20Z  3d  expires 2023-11-14T23:13:20Z  two\\u2028\\x9b.txt",
        f"{one['id']}  team-a  5  2023-11-14T22:13:20Z  3d  stays  one.txt",
        f"2 files (5 bytes) in {folder}",
    ]
    assert files("list") == files() == (0, shown, "")
    assert files("--owner", "team-a") == (0, [shown[1], f"1 file (5 bytes) in {folder}"], "")
    assert files("list", "--owner", "nobody") == (0, [f"0 files (0 bytes) in {folder}"], "")
    status, lines, _ = files("--json", "--owner", "team-a")
    assert (status, [json.loads(line) for line in lines]) == (0, [{
        "id": one["id"], "owner": "team-a", "bytes": 5, "created_at": 1_700_000_000, "expires_at": None,
        "filename": "one.txt", "purpose": "batch", "content_type": "application/jsonl",
        "sha256": hashlib.sha256(b"hello").hexdigest(),
    }])  # fmt: skip


def test_files_of_one_owner_are_given_to_another_beside_a_running_store(files, folder):
    store = opened(folder)
    made = [upload(store, b"hello", "retail", f"{number}.txt")["id"] for number in range(3)]
    other = upload(store, owner="treasury")["id"]
    assert files("adopt", "--from", "retail", "--to", "retail-emea") == (
        0, ["3 files (15 bytes) of retail now belong to retail-emea"], "",
    )  # fmt: skip
    assert ids(store, owner="retail") == [] and ids(store, owner="treasury") == [other]
    assert ids(store, owner="retail-emea", order="asc") == made
    assert [content_of(store, each, "retail-emea") for each in made] == [b"hello"] * 3
    assert files("verify")[:2] == (0, [f"4 files (20 bytes) in {folder}: no problems"])
    del store
    gc.collect()
    assert files("rebuild", "--force")[0] == 0  # the sidecars say the same
    assert ids(opened(folder), owner="retail-emea", order="asc") == made


def test_files_from_a_time_without_keys_are_given_to_an_owner(files, folder):
    store = opened(folder)
    file = upload(store)["id"]
    assert files("adopt", "--from", "", "--to", "retail")[1] == ["1 file (5 bytes) of nobody now belong to retail"]
    assert ids(store, owner="retail") == [file]
    status, out, err = files("adopt", "--from", "retail", "--to", "Not A Name")
    assert (status, out) == (2, []) and "--to must be a name" in err


def test_adoption_that_was_killed_is_finished_by_the_next_one(files, folder, monkeypatch):
    store = opened(folder)
    made = [upload(store, owner="a")["id"] for _ in range(2)]

    def killed(index, row, owner, now):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Index, "give", killed)
        with pytest.raises(KeyboardInterrupt):
            files("adopt", "--from", "a", "--to", "b")
    assert files("verify")[0] == 1 and ids(store, owner="a", order="asc") == made
    assert files("adopt", "--from", "a", "--to", "b")[0] == 0
    assert files("verify")[0] == 0 and ids(store, owner="b", order="asc") == made


def test_file_that_somebody_holds_is_named_and_stays_with_its_owner(files, folder):
    store = opened(folder)
    file = upload(store, owner="a")["id"]
    (blob,) = (folder / "blobs").glob("*[!n]")
    with blob.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        status, out, _ = files("adopt", "--from", "a", "--to", "b")
    assert (status, out[0]) == (1, f"{file} of a: it is in use; run this again") and ids(store, owner="a") == [file]


def test_files_are_deleted_by_their_ids(files, folder):
    store = opened(folder)
    gone, stays = upload(store, owner="a")["id"], upload(store, owner="b")["id"]
    unknown = f"file-{'0' * 38}"
    assert files("delete", gone, unknown) == (
        1, [f"{unknown}: there is no such file", "1 file (5 bytes) deleted"], "",
    )  # fmt: skip
    assert (ids(store, owner="a"), ids(store, owner="b")) == ([], [stays])
    assert kept_bytes(folder, "blobs", "trash") == [b"hello"]


def test_expired_files_are_swept_by_hand(files, folder):
    store = opened(folder)
    upload(store, b"expired", seconds=3600)
    upload(store)
    assert files("sweep")[:2] == (0, ["0 files (0 bytes) had expired, and nothing is left of them"])
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.execute("UPDATE clock SET since = ticks - 30000")  # the clock has been right for eight hours
    assert files("sweep")[:2] == (0, ["1 file (7 bytes) had expired, and nothing is left of them"])
    assert kept_bytes(folder, "blobs", "trash") == [b"hello"]


def test_list_speaks_where_the_terminal_knows_no_unicode(folder, tmp_path):
    upload(opened(folder), b"hello", name="\u6587.txt")
    done = run(tmp_path, "files", "list", FILESPROXY_FOLDER=str(folder), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "") and "\\u6587.txt" in done.stdout


def test_verify_is_status_0_for_a_store_that_is_whole(files, folder):
    upload(opened(folder))
    assert files("verify") == (0, [f"1 file (5 bytes) in {folder}: no problems"], "")


def test_verify_is_status_1_for_a_byte_that_changed(files, folder):
    file = upload(opened(folder))
    (blob,) = (folder / "blobs").glob("*[!n]")
    blob.write_bytes(b"jello")
    assert files("verify") == (1, [
        f"{file['id']} of this machine: its bytes have changed (SHA-256)",
        f"1 file (5 bytes) in {folder}: 1 problem",
    ], "")  # fmt: skip


def test_lost_files_are_shown_restored_and_discarded(files, folder):
    store = opened(folder)
    upload(store, b"stays")
    file = upload(store, b"lost!")

    def lose():
        with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
            database.execute("DELETE FROM files WHERE id = ?", (file["id"],))
        store.sweep()

    lose()
    hint = "1 file (5 bytes) in lost/: `files restore` puts them back, `files discard` removes them"
    assert files("verify")[:2] == (1, [f"1 file (5 bytes) in {folder}: no problems", hint])
    assert files("list")[1][-1] == hint
    assert files("restore") == (0, ["1 file (5 bytes) restored"], "")
    assert content_of(store, file["id"]) == b"lost!"
    lose()
    assert files("discard") == (0, ["1 file (5 bytes) removed from lost/"], "")
    assert files("restore") == (0, ["0 files (0 bytes) restored"], "")


def test_upload_that_was_killed_before_its_answer_is_not_an_error_for_ever(files, folder):
    store = opened(folder)
    upload(store, b"stays")
    killed = folder / "blobs" / ("a" * 32)
    killed.write_bytes(b"killed")
    killed.with_suffix(".json").touch()
    store.sweep()
    line = "1 in lost/ never had an id: the upload was killed, and nobody was told of a file"
    status, out, _ = files("verify")
    assert status == 0 and out[-1] == line
    assert files("restore") == (0, ["0 files (0 bytes) restored", line], "")
    assert kept_bytes(folder, "lost") == [b"killed"]
    (folder / "lost" / ("a" * 32 + ".json")).unlink()  # without a sidecar, somebody may know of the file
    assert files("verify")[0] == files("restore")[0] == 1


def test_index_that_is_damaged_is_status_1_and_rebuild_makes_it_anew(files, folder):
    file = upload(opened(folder))
    gc.collect()
    (folder / "index.sqlite3").write_bytes(b"no database at all" * 100)
    for verb in (["verify"], ["list"], ["restore"], ["backup", str(folder.parent / "copy")]):
        status, out, err = files(*verb)
        assert (status, out) == (1, []) and err.startswith(f"filesproxy: {folder}: The local store's index is damaged")
        assert "files rebuild" in err and err.count("\n") == 1
    status, (line,), err = files("rebuild")
    assert (status, err) == (0, "") and line.startswith(
        "the new index has 1 file; the old one is kept as index.sqlite3.old-"
    )
    assert ids(opened(folder)) == [file["id"]]
    gc.collect()
    status, out, err = files("rebuild")
    assert (status, out) == (1, []) and "--force" in err
    assert files("rebuild", "--force")[0] == 0


def schema_byte(old, new):
    def damage(path):
        content = bytearray(path.read_bytes())
        start = content.index(old)
        content[start : start + len(old)] = new
        path.write_bytes(content)

    return damage


def value(sql):
    def damage(path):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"UPDATE {sql}")

    return damage


DAMAGED = {
    "statement": schema_byte(b"CREATE TABLE files", b"CREATE TABL\xff files"),
    "column name": schema_byte(b"filename", b"filenam\xff"),
    "table name": schema_byte(b"files", b"file\xff"),
    "name in the statement": schema_byte(b"TABLE files", b"TABLE file\xff"),
    "another column name": schema_byte(b"filename", b"filenamf"),
    **{f"{name} is a BLOB": value(f"files SET {name} = CAST({name} AS BLOB)")
       for name in ("owner", "id", "filename", "content_type", "purpose", "bytes", "created_at", "blob", "sha256")},
    "owner is not UTF-8": value("files SET owner = CAST(x'61ff' AS TEXT)"),
    "filename is not UTF-8": value("files SET filename = CAST(x'61ff' AS TEXT)"),
    "id is not ours": value("files SET id = '../x'"),
    "blob is not ours": value("files SET blob = '../x'"),
    "bytes below zero": value("files SET bytes = -1"),
    "a time beyond all": value("files SET created_at = 9223372036854775807"),
    "expiry is text": value("files SET expires_at = 'never'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_index_with_what_the_store_cannot_have_written_is_named_and_made_anew(damage, files, folder):
    """UnicodeDecodeError and TypeError came out of every verb and of `check`, and no worker of gunicorn could start."""
    store = opened(folder)
    file = upload(store, b"hello", "team-a")
    del store
    gc.collect()
    DAMAGED[damage](folder / "index.sqlite3")
    gc.collect()
    for verb in ("verify", "list"):
        status, out, err = files(verb)
        assert status == 1 and err.startswith(f"filesproxy: {folder}: The local store's index is damaged")
    cli.main(("check",))
    application = create_app()
    prepare(application)
    for operation in ("list_files", "retrieve_file"):
        with suppress(StoreError, NotFound):
            ask(opened(folder), operation, file["id"], "team-a")
    with suppress(StoreError):
        store = opened(folder)
        store._sweeper._sweep_quietly()
    store = application = None
    gc.collect()
    assert kept_bytes(folder, "blobs") == [b"hello"]
    status, (line,), err = files("rebuild")
    assert (status, err) == (0, "") and line.startswith("the new index has 1 file")
    assert ids(opened(folder), owner="team-a") == [file["id"]]


def test_gateway_starts_whatever_a_store_raises(folder, monkeypatch, caplog):
    upload(opened(folder))
    monkeypatch.setenv("FILESPROXY_FOLDER", str(folder))
    application = create_app()
    for owner, name in ((maintenance, "owners"), (LocalTransport, "store")):
        monkeypatch.setattr(owner, name, lambda *arguments: {}["a fault"])
    prepare(application)
    assert [record.getMessage() for record in caplog.records] == [
        "the folders of local were not looked at (KeyError)",
        f"{folder} cannot be used (KeyError)",
    ]


def test_sweep_says_what_ended_it(folder, monkeypatch, caplog):
    store = opened(folder)
    monkeypatch.setattr(Index, "check", lambda index: {}["a fault"])
    store._sweeper._sweep_quietly()
    assert [record.getMessage() for record in caplog.records] == ["the local store was not swept (KeyError)"]


def test_time_that_the_system_cannot_count_to_is_listed(files, folder):
    upload(opened(folder))
    value("files SET created_at = 1 << 61")(folder / "index.sqlite3")
    status, out, err = files("list")
    assert (status, err) == (0, "") and f"@{1 << 61}" in out[0]


def test_backup_says_what_it_did(files, folder, tmp_path):
    upload(opened(folder))
    status, (line,), err = files("backup", str(tmp_path / "copy"))
    assert (status, err) == (0, "")
    assert line == f"1 file (5 bytes) copied to {tmp_path}/copy, as hard links: copy the folder to another disk"
    assert files("backup", str(tmp_path / "copy"))[0] == 1


def test_folder_without_a_store_is_status_1(files, folder):
    status, out, err = files("verify")
    assert (status, out) == (1, []) and err == f"filesproxy: {folder}: There is no local store in this folder.\n"
    assert not folder.exists()


TWO_STORES = (
    "[provider:first]\nkind = local\nfolder = {0}/first\n[provider:second]\nkind = local\nfolder = {0}/second\n"
)


def test_provider_is_named_where_several_keep_files(files, tmp_path, monkeypatch):
    monkeypatch.delenv("FILESPROXY_FOLDER")
    path = tmp_path / "filesproxy.ini"
    path.write_text(TWO_STORES.format(tmp_path))
    upload(opened(tmp_path / "second"))
    status, out, err = files("verify", "--config", str(path))
    assert (status, out, err) == (2, [], "filesproxy: --provider must be one of first, second.\n")
    assert files("verify", "--config", str(path), "--provider", "third")[0] == 2
    assert files("verify", "--config", str(path), "--provider", "second")[1] == [
        f"1 file (5 bytes) in {tmp_path}/second: no problems"
    ]


def test_configuration_without_a_store_is_status_2(files, tmp_path, monkeypatch):
    monkeypatch.delenv("FILESPROXY_FOLDER")
    path = tmp_path / "filesproxy.ini"
    path.write_text("[filesproxy]\n")
    status, _, err = files("list", "--config", str(path))
    assert status == 2 and "no provider keeps files here" in err


@pytest.mark.parametrize("words", [["nonsense"], ["backup"], ["verify", "DIR"]])
def test_wrong_words_are_status_2(words, files):
    status, out, err = files(*words)
    assert (status, out) == (2, []) and "usage:" in err


def test_store_of_the_user_is_found_without_a_configuration(tmp_path):
    upload(opened(tmp_path / "data" / "filesproxy"))
    done = run(tmp_path, "files", "verify", XDG_DATA_HOME=str(tmp_path / "data"))
    assert (done.returncode, done.stderr) == (0, "") and "no problems" in done.stdout


def test_reader_that_has_seen_enough_is_no_error(folder, tmp_path):
    import subprocess
    import sys

    store = opened(folder)
    upload(store, b"x")
    command = f"{sys.executable} -m filesproxy files list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "FILESPROXY_FOLDER": str(folder)}, capture_output=True, text=True,
        timeout=20, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
