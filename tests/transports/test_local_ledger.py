"""The ledger in a folder: whose an object is, what an upload may take, and what survives races, kills and bad disks."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
from processes import Child

from filesproxy.calls import Allowance, Made
from filesproxy.errors import DuplicateId, StoreError, StoreFull, TooLarge, TooMany
from filesproxy.transports.local.ledger import FolderLedger

NOW = 1_700_000_000
MINUTE, DAY = 60, 86400
FILE = "ledger.sqlite3"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ledger"


@pytest.fixture
def ledger(folder):
    found = FolderLedger(str(folder))
    yield found
    found.close()


def made(*ids, kind="file", **fields):
    """Objects with these ids, as the ledger is to remember them."""
    return [Made(item_id, kind, NOW, **fields) for item_id in ids]


def record(ledger, owner, *ids, account="acme", now=NOW, upload=0, **fields):
    ledger.record(account, owner, f"{owner}-key", made(*ids, **fields), now, upload)


def owners(ledger, *ids, account="acme"):
    """(id, owner) of what is known of these ids."""
    return sorted((row.id, row.owner) for row in ledger.owners(account, ids))


def ids(rows):
    return [row.id for row in rows]


def begin(ledger, size=1, owner="retail", key="till", account="acme", now=NOW, **limits):
    return ledger.begin_upload(account, owner, key, size, Allowance(**limits), now)


def count(folder, table):
    with closing(sqlite3.connect(folder / FILE)) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


# --- rows


def test_row_says_all_that_was_recorded_and_when_and_through_which_key(ledger):
    file = Made("file-1", "file", NOW - 5, True, None, "a.jsonl", "batch", 7, "ab" * 32, NOW + 3600)
    ledger.record("acme", "retail", "till", [file], NOW + 0.9)
    (row,) = ledger.owners("acme", ["file-1"])
    told = row._asdict()
    assert told.pop("number") > 0 and told.pop("deleted_at") is None
    assert told == {
        "account": "acme", "id": "file-1", "owner": "retail", "key": "till", "kind": "file", "created_at": NOW - 5,
        "recorded_at": NOW, "is_open": True, "expires_at": NOW + 3600, "filename": "a.jsonl",
        "purpose": "batch", "bytes": 7, "sha256": "ab" * 32,
    }  # fmt: skip
    assert [row.is_gone(now) for now in (NOW, NOW + 3599, NOW + 3600)] == [False, False, True]


def test_ids_that_nobody_has_have_no_rows_and_no_ids_need_no_look(ledger):
    record(ledger, "retail", "file-1")
    assert owners(ledger, "file-2", "", "file-", "%", "file-1\0", "file-1 ") == owners(ledger) == []


def test_text_that_is_no_unicode_is_nobodys_id(ledger):
    """JSON can have a lone surrogate, which UTF-8 cannot encode."""
    record(ledger, "retail", "file-1")
    assert owners(ledger, "file-\ud800", "file-1") == [("file-1", "retail")]


def test_same_id_at_two_accounts_is_two_objects(ledger):
    record(ledger, "retail", "file-1")
    record(ledger, "bank", "file-1", account="other")
    assert owners(ledger, "file-1") == [("file-1", "retail")]
    assert owners(ledger, "file-1", account="other") == [("file-1", "bank")]
    ledger.delete("other", "file-1", NOW)
    assert not ledger.owners("acme", ["file-1"])[0].is_gone(NOW)


def test_ids_are_found_without_regard_to_the_case_of_ascii_letters_alone(ledger):
    record(ledger, "retail", "file-aBc", "file-é")
    for asked in ("file-aBc", "FILE-ABC", "file-abc"):
        assert owners(ledger, asked) == [("file-aBc", "retail")]
    assert owners(ledger, "FILE-é") == [("file-é", "retail")]
    assert owners(ledger, "file-É") == []


def test_ids_that_differ_in_case_are_two_objects_and_a_look_for_either_finds_both(ledger):
    record(ledger, "retail", "file-A")
    record(ledger, "bank", "file-a")
    assert owners(ledger, "FILE-A") == [("file-A", "retail"), ("file-a", "bank")]
    ledger.delete("acme", "file-a", NOW)
    assert [row.deleted_at for row in ledger.owners("acme", ["file-A"]) if row.owner == "retail"] == [None]


@pytest.mark.parametrize("number", [0, 1, 499, 500, 501, 1200])
def test_many_ids_are_looked_up_at_once(number, ledger):
    every = [f"file-{n}" for n in range(number)]
    record(ledger, "retail", *every)
    record(ledger, "bank", "file-of-bank")
    asked = [f"nothing-{n}" for n in range(300)] + every + ["file-of-bank"]
    assert owners(ledger, *asked) == sorted([*((each, "retail") for each in every), ("file-of-bank", "bank")])


def test_id_of_another_owner_is_refused_and_nothing_of_that_answer_is_recorded(ledger):
    record(ledger, "retail", "file-1")
    upload = begin(ledger, 10, owner="bank")
    with pytest.raises(DuplicateId) as caught:
        record(ledger, "bank", "file-2", "file-1", "file-3", upload=upload)
    assert (caught.value.status, caught.value.code) == (502, "duplicate_id")
    assert "file-1" not in caught.value.message and "retail" not in caught.value.message
    assert owners(ledger, "file-1", "file-2", "file-3") == [("file-1", "retail")]
    assert [row[:3] for row in ledger.uploads("acme")] == [("bank", "till", 10)]  # its file may be at the provider


def test_id_of_another_owner_stays_taken_after_a_deletion_until_its_row_ends(ledger):
    record(ledger, "retail", "file-1")
    ledger.delete("acme", "file-1", NOW)
    with pytest.raises(DuplicateId):
        record(ledger, "bank", "file-1", now=NOW + 30 * DAY - 1)
    ledger.prune(NOW + 30 * DAY)
    record(ledger, "bank", "file-1", now=NOW + 30 * DAY)
    assert owners(ledger, "file-1") == [("file-1", "bank")]


def test_known_object_of_the_same_owner_stays_and_only_what_is_to_come_of_it_changes(ledger):
    record(ledger, "retail", "batch_1", kind="batch", is_open=True, filename="first")
    (before,) = ledger.owners("acme", ["batch_1"])
    ledger.record("acme", "retail", "another-key", made("batch_1", kind="batch", filename="second"), NOW + 9)
    (after,) = ledger.owners("acme", ["batch_1"])
    assert (before.is_open, after.is_open) == (True, False)
    assert after == before._replace(is_open=False)


def test_object_that_an_answer_names_twice_has_one_row(ledger):
    record(ledger, "retail", "file-1", "file-1")
    assert owners(ledger, "file-1") == [("file-1", "retail")]


def test_object_that_was_deleted_and_is_made_again_is_new(ledger):
    record(ledger, "retail", "file-1", "file-2", filename="first")
    ledger.delete("acme", "file-1", NOW + 1)
    record(ledger, "retail", "file-1", now=NOW + 2, filename="second")
    (row,) = ledger.owners("acme", ["file-1"])
    assert (row.deleted_at, row.filename, row.recorded_at) == (None, "second", NOW + 2)
    assert ids(ledger.of_kind("acme", "retail", "file")) == ["file-2", "file-1"]
    assert ledger.prune(NOW + 365 * DAY) == 0


# --- what ends


def test_deleted_object_is_a_position_for_30_days(ledger):
    record(ledger, "retail", "file-1", "file-2", "file-3")
    (before,) = ledger.owners("acme", ["file-2"])
    ledger.delete("acme", "file-2", NOW + 0.5)
    (row,) = ledger.owners("acme", ["file-2"])
    assert row == before._replace(deleted_at=NOW) and row.is_gone(NOW)
    assert ids(ledger.of_kind("acme", "retail", "file")) == ["file-1", "file-3"]
    assert ledger.prune(NOW + 30 * DAY - 1) == 0
    assert ids(ledger.owners("acme", ["file-2"])) == ["file-2"]
    assert ledger.prune(NOW + 30 * DAY) == 1
    assert ledger.owners("acme", ["file-2"]) == []


def test_second_deletion_does_not_prolong_the_first(ledger):
    record(ledger, "retail", "file-1")
    ledger.delete("acme", "file-1", NOW)
    ledger.delete("acme", "file-1", NOW + 29 * DAY)
    assert ledger.owners("acme", ["file-1"])[0].deleted_at == NOW
    assert ledger.prune(NOW + 30 * DAY) == 1


def test_deletion_of_what_nobody_has_changes_nothing(ledger):
    record(ledger, "retail", "file-1")
    ledger.delete("acme", "file-2", NOW)
    assert not ledger.owners("acme", ["file-1"])[0].is_gone(NOW)


def test_response_is_remembered_as_long_as_its_row_says(ledger):
    record(ledger, "retail", "resp_1", kind="response", ends_after=90 * DAY)
    record(ledger, "retail", "file-1")
    assert ledger.prune(NOW + 90 * DAY - 1) == 0
    assert ledger.prune(NOW + 90 * DAY) == 1
    assert owners(ledger, "resp_1", "file-1") == [("file-1", "retail")]


def test_deleted_response_ends_30_days_after_that(ledger):
    record(ledger, "retail", "resp_1", kind="response", ends_after=90 * DAY)
    ledger.delete("acme", "resp_1", NOW + DAY)
    assert (ledger.prune(NOW + 31 * DAY - 1), ledger.prune(NOW + 31 * DAY)) == (0, 1)


def test_recording_forgets_what_has_ended_at_first_and_then_once_an_hour(folder, ledger, monkeypatch):
    ticks = [5.0]
    monkeypatch.setattr("filesproxy.transports.local.ledger.time", SimpleNamespace(monotonic=lambda: ticks[0]))
    record(ledger, "retail", "resp_1", "resp_2", kind="response", ends_after=1)
    record(ledger, "retail", "file-1", now=NOW + 1)
    assert len(ledger.owners("acme", ["resp_1", "resp_2"])) == 2
    ticks[0] += 3600
    record(ledger, "retail", "file-2", now=NOW + 1)
    assert ledger.owners("acme", ["resp_1", "resp_2"]) == []
    record(ledger, "retail", "resp_3", kind="response", ends_after=1)
    record(FolderLedger(str(folder)), "retail", "file-3", now=NOW + 1)
    assert ledger.owners("acme", ["resp_3"]) == []


def test_number_of_a_row_that_has_ended_is_never_used_again(ledger):
    """A list's order, and a page that began before, stay right."""
    record(ledger, "retail", "file-1", "file-2")
    last = ledger.owners("acme", ["file-2"])[0].number
    ledger.delete("acme", "file-2", NOW)
    ledger.prune(NOW + 30 * DAY)
    record(ledger, "retail", "file-3")
    assert ledger.owners("acme", ["file-3"])[0].number > last


# --- lists


def test_objects_of_a_kind_come_in_the_order_of_recording(ledger):
    record(ledger, "retail", "file-9", "file-1")
    record(ledger, "bank", "file-4")
    record(ledger, "retail", "batch_1", kind="batch")
    record(ledger, "retail", "file-7", account="other")
    record(ledger, "retail", "file-5", expires_at=NOW - 1)
    rows = ledger.of_kind("acme", "retail", "file")
    assert ids(rows) == ["file-9", "file-1", "file-5"]
    assert [row.number for row in rows] == sorted(row.number for row in rows)
    assert ledger.of_kind("acme", "nobody", "file") == []


def test_owners_of_a_kind_come_by_name_each_once(ledger):
    for owner in ("wholesale", "bank", "retail", "bank"):
        record(ledger, owner, f"file-{owner}")
    record(ledger, "audit", "batch_1", kind="batch")
    record(ledger, "elsewhere", "file-1", account="other")
    assert ledger.owners_of("acme", "file") == ["bank", "retail", "wholesale"]
    assert ledger.owners_of("acme", "batch") == ["audit"]
    assert ledger.owners_of("acme", "container") == []


def test_known_owners_are_those_who_have_something_at_any_account(ledger):
    record(ledger, "retail", "file-1")
    record(ledger, "bank", "batch_1", kind="batch", account="other")
    record(ledger, "gone", "file-2")
    ledger.delete("acme", "file-2", NOW)
    assert ledger.known_owners() == ["bank", "retail"]


def test_unfinished_batches_and_jobs_come_newest_first_and_at_most_as_many_as_asked_for(ledger):
    for number in range(4):
        kind = "job" if number % 2 else "batch"
        record(ledger, "retail", f"{kind}_{number}", kind=kind, is_open=True)
    record(ledger, "bank", "batch_of_bank", kind="batch", is_open=True)
    record(ledger, "retail", "batch_elsewhere", kind="batch", is_open=True, account="other")
    assert ids(ledger.unfinished("acme", "retail", 20)) == ["job_3", "batch_2", "job_1", "batch_0"]
    assert ids(ledger.unfinished("acme", "retail", 2)) == ["job_3", "batch_2"]
    ledger.record("acme", "retail", "k", [Made("job_3", "job", 1)], 20)  # it is not open any more
    ledger.delete("acme", "batch_2", NOW)
    assert ids(ledger.unfinished("acme", "retail", 20)) == ["job_1", "batch_0"]
    assert ids(ledger.of_kind("acme", "retail", "job")) == ["job_1", "job_3"]


def test_expired_are_those_whose_time_is_over_and_that_were_not_deleted(ledger):
    record(ledger, "retail", "file-1", "file-2", expires_at=NOW + 10)
    record(ledger, "bank", "file-3", expires_at=NOW + 11)
    record(ledger, "retail", "file-4")
    record(ledger, "retail", "file-5", expires_at=NOW, account="other")
    ledger.delete("acme", "file-2", NOW)
    assert ids(ledger.expired("acme", NOW + 9.9)) == []
    assert ids(ledger.expired("acme", NOW + 10)) == ["file-1"]
    assert ids(ledger.expired("acme", NOW + 11)) == ["file-1", "file-3"]


@pytest.mark.parametrize("limit", [1, 2, 6, 7, 1000])
def test_every_row_comes_once_whatever_the_page(limit, ledger):
    record(ledger, "retail", "file-1", "file-2")
    record(ledger, "bank", "file-3", "file-4")
    record(ledger, "retail", "file-5", "file-6", account="other")
    ledger.delete("acme", "file-2", NOW)
    assert ids(ledger.every(limit=limit)) == [f"file-{number}" for number in range(1, 7)]
    assert ids(ledger.every("acme", limit=limit)) == ["file-1", "file-2", "file-3", "file-4"]
    assert ids(ledger.every(owner="retail", limit=limit)) == ["file-1", "file-2", "file-5", "file-6"]
    assert ids(ledger.every("other", "bank", limit)) == []


def test_look_at_every_row_keeps_no_writer_waiting_and_no_row_twice(ledger):
    record(ledger, "retail", "file-1", "file-2", "file-3")
    rows = ledger.every(limit=1)
    assert next(rows).id == "file-1"
    ledger.delete("acme", "file-1", NOW)
    record(ledger, "retail", "file-1", "file-4")
    assert ids(rows) == ["file-2", "file-3", "file-1", "file-4"]


# --- owners, accounts, verdicts


def test_all_that_an_owner_has_at_an_account_is_given_to_another(ledger):
    record(ledger, "retail", "file-1", "file-2", bytes=10)
    record(ledger, "retail", "file-5", account="other")
    record(ledger, "shop", "file-3", bytes=5)
    record(ledger, "bank", "file-4")
    ledger.delete("acme", "file-2", NOW)
    begin(ledger, 7, owner="retail")
    begin(ledger, 8, owner="retail", account="other")
    assert ledger.give("retail", "shop", "acme") == 2
    assert ledger.give("retail", "shop", "acme") == 0
    assert owners(ledger, "file-1", "file-2", "file-3", "file-4") == [
        ("file-1", "shop"), ("file-2", "shop"), ("file-3", "shop"), ("file-4", "bank"),
    ]  # fmt: skip
    assert owners(ledger, "file-5", account="other") == [("file-5", "retail")]
    assert ledger.uploads("acme") == [("shop", "till", 7, NOW)]
    assert ledger.uploads("other") == [("retail", "till", 8, NOW)]
    with pytest.raises(TooLarge, match="22 bytes together; 0 are left"):
        begin(ledger, 1, owner="shop", max_stored_bytes=22)
    record(ledger, "shop", "file-1")  # its own now
    with pytest.raises(DuplicateId):
        record(ledger, "retail", "file-1")


def test_account_came_when_it_was_first_heard_of_and_that_stays(folder, ledger):
    assert ledger.since("acme", NOW + 0.9) == NOW
    assert ledger.since("acme", NOW + 99) == ledger.since("acme", NOW - 99) == NOW
    record(ledger, "retail", "file-1", now=NOW + 5, account="other")
    begin(ledger, now=NOW + 6, account="third")
    ledger.delete("other", "file-1", NOW)
    ledger.prune(NOW + 365 * DAY)
    again = FolderLedger(str(folder))
    assert [again.since(account, NOW + 99) for account in ("acme", "other", "third")] == [NOW, NOW + 5, NOW + 6]


def test_upload_that_is_refused_does_not_say_when_an_account_came(ledger):
    record(ledger, "retail", "file-1")
    with pytest.raises(TooLarge):
        begin(ledger, 2, account="other", max_stored_bytes=1)
    assert ledger.since("other", NOW + 7) == NOW + 7


def test_verdict_is_of_one_account_owner_operation_and_file(ledger):
    verdict = ("acme", "retail", "create_batch", "file-1")
    assert not ledger.is_judged(*verdict)
    ledger.note_judged(*verdict, NOW)
    ledger.note_judged(*verdict, NOW)
    assert ledger.is_judged(*verdict)
    for place, other in enumerate(("other", "bank", "create_fine_tuning_job", "FILE-1")):
        assert not ledger.is_judged(*verdict[:place], other, *verdict[place + 1 :])


@pytest.mark.parametrize("old,new", [("retail", "bank"), ("bank", "retail"), ("bank", "shop")])
def test_adoption_forgets_every_verdict_of_the_account(old, new, ledger):
    """What a file names may be another's now, or somebody's for the first time."""
    for account in ("acme", "other"):
        ledger.note_judged(account, "retail", "create_batch", "file-1", NOW)
    record(ledger, "bank", "file-2")
    ledger.give(old, new, "acme")
    assert not ledger.is_judged("acme", "retail", "create_batch", "file-1")
    assert ledger.is_judged("other", "retail", "create_batch", "file-1")


# --- uploads


def test_upload_is_remembered_until_something_is_heard_of_it(ledger):
    first, second, third = begin(ledger, 5), begin(ledger, 6, "bank", "vault", now=NOW + 1.5), begin(ledger, 7)
    begin(ledger, 8, account="other")
    assert len({first, second, third}) == 3 and 0 not in (first, second, third)
    told = [("retail", "till", 5, NOW), ("bank", "vault", 6, NOW + 1), ("retail", "till", 7, NOW)]
    assert ledger.uploads("acme") == told
    ledger.end_upload(first)
    record(ledger, "retail", "file-1", upload=third)
    assert ledger.uploads("acme") == [told[1]]
    ledger.end_upload(first)
    ledger.end_upload(12345)
    assert ledger.uploads("acme") == [told[1]]


def test_upload_that_ended_with_nothing_new_to_record_is_over_too(ledger):
    record(ledger, "retail", "file-1", bytes=5)
    upload = begin(ledger, 100)
    record(ledger, "retail", upload=upload)
    assert ledger.uploads("acme") == []


def test_unfinished_upload_can_be_named_for_30_days_and_a_finished_one_counts_for_its_minute(ledger, folder):
    begin(ledger)
    ledger.end_upload(begin(ledger))
    ledger.prune(NOW + 2 * MINUTE)
    assert count(folder, "uploads") == 2
    ledger.prune(NOW + 2 * MINUTE + 1)
    assert count(folder, "uploads") == 1
    ledger.prune(NOW + 30 * DAY)
    assert len(ledger.uploads("acme")) == 1
    ledger.prune(NOW + 30 * DAY + 1)
    assert ledger.uploads("acme") == []


def test_quota_counts_the_files_of_an_owner_at_every_account_and_nothing_else(ledger):
    record(ledger, "retail", "file-1", bytes=40)
    record(ledger, "retail", "file-2", bytes=20, account="other")
    record(ledger, "retail", "file-3")  # nobody said how large it is
    record(ledger, "retail", "upload_1", kind="upload", bytes=999)
    record(ledger, "bank", "file-4", bytes=999)
    begin(ledger, 40, max_stored_bytes=100)
    with pytest.raises(TooLarge) as caught:
        begin(ledger, 1, max_stored_bytes=100)
    error = caught.value
    assert (error.status, error.code, error.param) == (413, "quota_exceeded", "file")
    assert (
        error.message == "The files of this owner may have 100 bytes together; 0 are left, and this upload may have 1."
    )
    begin(ledger, 999, max_stored_bytes=0)


def test_quota_counts_no_file_that_was_deleted_or_has_expired(ledger):
    record(ledger, "retail", "file-1", bytes=50)
    record(ledger, "retail", "file-2", bytes=50, expires_at=NOW + 10)
    with pytest.raises(TooLarge, match="; 0 are left"):
        begin(ledger, 1, max_stored_bytes=100, now=NOW + 9)
    ledger.end_upload(begin(ledger, 50, max_stored_bytes=100, now=NOW + 10))
    ledger.delete("acme", "file-1", NOW)
    begin(ledger, 100, max_stored_bytes=100, now=NOW + 10)


def test_quota_counts_what_is_in_stores(ledger):
    with pytest.raises(TooLarge, match="; 10 are left"):
        begin(ledger, 11, max_stored_bytes=100, kept=lambda: 90)
    with pytest.raises(TooLarge, match="; 0 are left"):
        begin(ledger, 1, max_stored_bytes=100, kept=lambda: 101)
    begin(ledger, 10, max_stored_bytes=100, kept=lambda: 90)


def test_upload_reserves_its_bytes_until_its_file_is_recorded(ledger):
    upload = begin(ledger, 80, max_stored_bytes=100)
    with pytest.raises(TooLarge, match="; 20 are left"):
        begin(ledger, 21, max_stored_bytes=100)
    record(ledger, "retail", "file-1", bytes=30, upload=upload)
    with pytest.raises(TooLarge, match="; 70 are left"):
        begin(ledger, 71, max_stored_bytes=100)


def test_upload_that_came_to_nothing_gives_its_bytes_back(ledger):
    upload = begin(ledger, 100, max_stored_bytes=100)
    ledger.end_upload(upload)
    begin(ledger, 100, max_stored_bytes=100)


def test_bytes_of_an_upload_of_which_nothing_was_heard_are_reserved_for_24_hours(ledger):
    begin(ledger, 100, max_stored_bytes=100)
    with pytest.raises(TooLarge):
        begin(ledger, 1, max_stored_bytes=100, now=NOW + DAY - 1)
    begin(ledger, 1, max_stored_bytes=100, now=NOW + DAY)
    assert len(ledger.uploads("acme")) == 2


def test_refused_upload_reserves_and_counts_nothing(ledger):
    for _ in range(3):
        with pytest.raises(TooLarge):
            begin(ledger, 101, max_stored_bytes=100, max_uploads_per_minute=1)
    begin(ledger, 100, max_stored_bytes=100, max_uploads_per_minute=1)
    assert len(ledger.uploads("acme")) == 1


def test_key_may_begin_so_many_uploads_a_minute_and_learns_when_it_may_again(ledger):
    begin(ledger, now=NOW, max_uploads_per_minute=2)
    ledger.end_upload(begin(ledger, now=NOW + 20, max_uploads_per_minute=2, account="other"))
    with pytest.raises(TooMany) as caught:
        begin(ledger, now=NOW + 30, max_uploads_per_minute=2)
    error = caught.value
    assert (error.status, error.code, error.headers) == (429, "too_many_uploads", {"retry-after": "30"})
    assert error.message == "This gateway key may begin 2 uploads a minute; the next one in 30 s."
    begin(ledger, now=NOW + 30, key="other-till", max_uploads_per_minute=2)
    with pytest.raises(TooMany) as caught:
        begin(ledger, now=NOW + 59.9, max_uploads_per_minute=2)
    assert caught.value.headers == {"retry-after": "1"}
    begin(ledger, now=NOW + 60, max_uploads_per_minute=2)
    with pytest.raises(TooMany) as caught:
        begin(ledger, now=NOW + 60, max_uploads_per_minute=2)
    assert caught.value.headers == {"retry-after": "20"}


def test_two_ledgers_on_one_folder_count_together(folder, ledger):
    other = FolderLedger(str(folder))
    begin(ledger, 60, max_stored_bytes=100, max_uploads_per_minute=2)
    with pytest.raises(TooLarge, match="; 40 are left"):
        begin(other, 41, max_stored_bytes=100)
    upload = begin(other, 40, max_stored_bytes=100, max_uploads_per_minute=2)
    with pytest.raises(TooMany):
        begin(ledger, 0, max_stored_bytes=100, max_uploads_per_minute=2)
    record(ledger, "retail", "file-1", upload=upload, bytes=1)
    with pytest.raises(DuplicateId):
        record(other, "bank", "file-1")
    assert owners(other, "file-1") == [("file-1", "retail")]
    assert other.uploads("acme") == [("retail", "till", 60, NOW)]


# --- races and kills

RACES = 40


def test_of_threads_that_record_one_id_for_different_owners_exactly_one_wins(ledger):
    names = [f"owner-{number}" for number in range(4)]
    together = threading.Barrier(len(names))
    won = {name: set() for name in names}

    def tries(name):
        for number in range(RACES):
            together.wait(30)
            try:
                record(ledger, name, f"file-{number}", f"file-{number}-of-{name}")
                won[name].add(number)
            except DuplicateId:
                pass

    threads = [threading.Thread(target=tries, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(RACES))
    known = {(row.id, row.owner) for row in ledger.every()}
    assert known == {
        (f"file-{number}{suffix}", name)
        for name in names
        for number in won[name]
        for suffix in ("", f"-of-{name}")
    }  # fmt: skip


RECORDS = f"""
import sys
from filesproxy.calls import Allowance, Made
from filesproxy.errors import DuplicateId, TooLarge, TooMany
from filesproxy.transports.local.ledger import FolderLedger
ledger, owner = FolderLedger(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for line in sys.stdin:
    try:
        if line.startswith("begin"):
            ledger.begin_upload("acme", "both", "both", 1, Allowance({RACES}, {RACES}), {NOW})
        else:
            ledger.record("acme", owner, owner, [Made(line.strip(), "file", {NOW})], {NOW})
        print("won", flush=True)
    except (DuplicateId, TooLarge, TooMany) as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def two_processes(folder):
    """Two other processes that have the ledger open; both have made it at the same time."""
    with Child(RECORDS, str(folder), "retail") as retail, Child(RECORDS, str(folder), "bank") as bank:
        assert (retail.said(), bank.said()) == ("ready", "ready")
        yield {"retail": retail, "bank": bank}


def test_of_two_processes_that_record_one_id_exactly_one_wins(two_processes, folder):
    for number in range(RACES):
        for child in two_processes.values():
            child.told(f"file-{number}")
    said = {name: [child.said() for _ in range(RACES)] for name, child in two_processes.items()}
    assert all({retail, bank} == {"won", "DuplicateId"} for retail, bank in zip(said["retail"], said["bank"]))
    winners = {
        (f"file-{number}", name) for name, lines in said.items() for number, line in enumerate(lines) if line == "won"
    }
    assert {(row.id, row.owner) for row in FolderLedger(str(folder)).every()} == winners and len(winners) == RACES


def test_processes_together_begin_no_more_uploads_than_the_limits_allow(two_processes, folder):
    for _ in range(RACES):
        for child in two_processes.values():
            child.told("begin")
    said = [child.said() for child in two_processes.values() for _ in range(RACES)]
    assert (said.count("won"), len(said)) == (RACES, 2 * RACES)
    assert len(FolderLedger(str(folder)).uploads("acme")) == RACES


WRITES = """
import itertools, sys
from filesproxy.calls import Made
from filesproxy.transports.local.ledger import FolderLedger
ledger = FolderLedger(sys.argv[1])
for number in itertools.count():
    ledger.record("acme", "retail", "till", [Made(f"file-{number}-{part}", "file", 1) for part in "ab"], 1)
    print(number, flush=True)
"""


def test_process_that_is_killed_loses_no_row_that_it_acknowledged_and_leaves_no_half(folder):
    with Child(WRITES, str(folder)) as child:
        acknowledged = [child.said() for _ in range(30)]
        child.is_killed()  # while it records the next ones
        acknowledged += iter(child.said, "")
    found = ids(FolderLedger(str(folder)).every())
    written = len(found) // 2
    assert acknowledged == [str(number) for number in range(len(acknowledged))]
    assert written in (len(acknowledged), len(acknowledged) + 1)
    assert found == [f"file-{number}-{part}" for number in range(written) for part in "ab"]


# --- the disk


def test_folder_and_files_are_for_their_owner_alone_whatever_the_umask(folder):
    umask = os.umask(0)
    try:
        ledger = FolderLedger(str(folder))
        record(ledger, "retail", "file-1")
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys([FILE, f"{FILE}-wal", f"{FILE}-shm", "lock"], 0o600)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_ledger_that_is_closed_leaves_all_rows_in_one_file(folder):
    ledger = FolderLedger(str(folder))
    record(ledger, "retail", "file-1")
    ledger.close()
    assert sorted(path.name for path in folder.iterdir()) == [FILE, "lock"]
    assert owners(FolderLedger(str(folder)), "file-1") == [("file-1", "retail")]


def refused(folder):
    """The message with which a ledger in this folder is refused; it names no path."""
    with pytest.raises(StoreError) as caught:
        FolderLedger(str(folder))
    assert str(folder) not in caught.value.message
    return caught.value.message


DAMAGED = "The ledger is damaged: restore it from a backup."


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_file_that_is_no_database_is_refused_and_left_alone(content, folder):
    folder.mkdir()
    (folder / FILE).write_bytes(content)
    assert refused(folder) == DAMAGED
    assert (folder / FILE).read_bytes() == content


def test_ledger_without_its_tables_is_damaged(folder, ledger):
    with closing(sqlite3.connect(folder / FILE)) as database, database:
        database.execute("DROP TABLE objects")
    for work in (
        lambda: ledger.owners("acme", ["file-1"]),
        lambda: record(ledger, "retail", "file-1"),
        lambda: list(ledger.every()),
    ):
        with pytest.raises(StoreError) as caught:
            work()
        assert caught.value.message == DAMAGED


def test_ledger_whose_pages_are_damaged_says_so_instead_of_finding_nothing(folder):
    ledger = FolderLedger(str(folder))
    record(ledger, "retail", *[f"file-{number}" for number in range(500)])
    ledger.close()
    size = (folder / FILE).stat().st_size
    with open(folder / FILE, "r+b") as file:
        file.seek(4096)  # the first page has the schema
        file.write(b"\xa5" * (size - 4096))
    damaged = FolderLedger(str(folder))
    for work in (lambda: damaged.owners("acme", ["file-1"]), lambda: record(damaged, "bank", "file-1")):
        with pytest.raises(StoreError) as caught:
            work()
        assert caught.value.message == DAMAGED


def test_ledger_of_a_newer_version_is_refused_and_left_alone(folder):
    ledger = FolderLedger(str(folder))
    ledger.close()
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 2")
    assert refused(folder) == "The ledger was made by a newer filesproxy."
    with closing(sqlite3.connect(folder / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "cannot use its folder" in refused(tmp_path / "file")
    assert "cannot use its folder" in refused(tmp_path / "file" / "ledger")


def test_ledger_on_a_read_only_disk_is_read_and_says_why_it_records_nothing(folder, monkeypatch):
    """As `test_local_index` does it: a superuser, too, finds nothing writable."""
    ledger = FolderLedger(str(folder))
    record(ledger, "retail", "file-1")
    ledger.close()
    real = sqlite3.connect

    def connect(path, **options):
        if "immutable" not in path:
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    ledger = FolderLedger(str(folder))
    assert owners(ledger, "file-1") == [("file-1", "retail")]
    assert ledger.since("acme", NOW + 5) == NOW
    for work in (
        lambda: record(ledger, "retail", "file-2"),
        lambda: begin(ledger),
        lambda: ledger.delete("acme", "file-1", NOW),
        lambda: ledger.note_judged("acme", "retail", "create_batch", "file-1", NOW),
    ):
        with pytest.raises(StoreError) as caught:
            work()
        assert caught.value.message == "The ledger's disk is read-only."
    assert owners(ledger, "file-1", "file-2") == [("file-1", "retail")]


def test_ledger_on_a_full_disk_says_so_and_keeps_what_it_acknowledged(folder, monkeypatch):
    ledger = FolderLedger(str(folder))
    ledger.close()
    real = sqlite3.connect

    def connect(path, **options):
        database = real(path, **options)
        database.execute("PRAGMA max_page_count = 40")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect)
    ledger = FolderLedger(str(folder))
    acknowledged = []
    with pytest.raises(StoreFull) as caught:
        for number in range(1000):
            record(ledger, "retail", f"file-{number}", filename="a" * 3000)
            acknowledged.append(f"file-{number}")
    assert (caught.value.status, caught.value.message) == (507, "The ledger has no space left.")
    assert ids(ledger.every()) == acknowledged and acknowledged
    ledger.delete("acme", acknowledged[0], NOW)
    assert ids(ledger.of_kind("acme", "retail", "file")) == acknowledged[1:]


def test_ledger_that_another_process_holds_for_too_long_is_an_error_and_records_nothing(folder, monkeypatch):
    monkeypatch.setattr("filesproxy.transports.local.database._BUSY_SECONDS", 0.05)
    ledger = FolderLedger(str(folder))
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            record(ledger, "retail", "file-1")
        assert caught.value.message == "The ledger cannot be used."
        assert owners(ledger, "file-1") == []  # readers do not wait
        other.execute("ROLLBACK")
    record(ledger, "retail", "file-1")
    assert owners(ledger, "file-1") == [("file-1", "retail")]


def test_clock_that_was_put_back_locks_no_key_out(ledger):
    for _ in range(2):
        begin(ledger, 1, now=NOW + 3 * 86400, max_uploads_per_minute=2)
    begin(ledger, 1, now=NOW, max_uploads_per_minute=2)
    begin(ledger, 1, now=NOW, max_uploads_per_minute=2)
    with pytest.raises(TooMany) as caught:
        begin(ledger, 1, now=NOW, max_uploads_per_minute=2)
    assert int(caught.value.headers["retry-after"]) <= 60


@pytest.mark.parametrize("how", ["moved", "replaced", "deleted"])
def test_ledger_that_is_not_where_it_was_is_an_error_and_not_a_second_one(how, ledger, folder):
    record(ledger, "retail", "file-1")
    path = folder / FILE
    path.rename(folder / "elsewhere") if how != "deleted" else path.unlink()
    if how == "replaced":
        path.write_bytes((folder / "elsewhere").read_bytes())
    for use in (lambda: owners(ledger, "file-1"), lambda: record(ledger, "retail", "file-2")):
        with pytest.raises(StoreError, match="not where it was"):
            use()


def test_new_ledger_says_so_once(tmp_path):
    assert FolderLedger(str(tmp_path / "new")).is_new
    assert not FolderLedger(str(tmp_path / "new")).is_new
