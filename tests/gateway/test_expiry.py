"""Expiry of an upload: what asks for it is honoured or refused by its name, before and after the file, everywhere."""

from __future__ import annotations

import pytest
from fakes import FILE, OPENAI, form, form_type

from filesproxy.errors import BadRequest
from filesproxy.gateway.expiry import ANCHOR, SECONDS, in_brackets, is_about_expiry

CONTENT = ("file", "a.jsonl", "application/jsonl", b"hello")
PURPOSE = ("purpose", "batch")
HONOURED = {
    "brackets": (("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600")),
    "dots": (("expires_after.anchor", "created_at"), ("expires_after.seconds", "3600")),
    "mixed": (("expires_after.seconds", "3600"), ("expires_after[anchor]", "created_at")),
    "json": (("expires_after", '{"anchor": "created_at", "seconds": 3600}'),),
    "json_in_another_order": (("expires_after", ' {"seconds":3600,"anchor":"created_at"}\n'),),
    "json_part": (("expires_after", "blob", "application/json", b'{"anchor":"created_at","seconds":3600}'),),
}
REFUSED = {
    "number": ([("expires_after", "3600")], "expires_after"),
    "word": ([("expires_after", "created_at")], "expires_after"),
    "nothing": ([("expires_after", "")], "expires_after"),
    "null": ([("expires_after", "null")], "expires_after"),
    "json_list": ([("expires_after", '["created_at", 3600]')], "expires_after"),
    "json_that_is_cut": ([("expires_after", '{"anchor":"created_at","seconds":3600')], "expires_after"),
    "python_repr": ([("expires_after", "{'anchor': 'created_at', 'seconds': 3600}")], "expires_after"),
    "object_of_javascript": ([("expires_after", "[object Object]")], "expires_after"),
    "json_key_twice": ([("expires_after", '{"anchor":"created_at","seconds":3600,"seconds":7200}')], "expires_after"),
    "json_with_more": ([("expires_after", '{"anchor":"created_at","seconds":3600,"days":1}')], "expires_after"),
    "json_without_anchor": ([("expires_after", '{"seconds":3600}')], "expires_after.anchor"),
    "json_without_seconds": ([("expires_after", '{"anchor":"created_at"}')], "expires_after.seconds"),
    "json_seconds_as_text": ([("expires_after", '{"anchor":"created_at","seconds":"3600"}')], "expires_after.seconds"),
    "json_half_seconds": ([("expires_after", '{"anchor":"created_at","seconds":3600.5}')], "expires_after.seconds"),
    "json_true": ([("expires_after", '{"anchor":"created_at","seconds":true}')], "expires_after.seconds"),
    "json_too_short": ([("expires_after", '{"anchor":"created_at","seconds":3599}')], "expires_after.seconds"),
    "json_too_long": ([("expires_after", '{"anchor":"created_at","seconds":2592001}')], "expires_after.seconds"),
    "json_other_anchor": ([("expires_after", '{"anchor":"now","seconds":3600}')], "expires_after.anchor"),
    "dots_too_short": ([("expires_after.seconds", "60")], "expires_after.seconds"),
    "dots_other_anchor": ([("expires_after.anchor", "now")], "expires_after.anchor"),
    "brackets_of_arabic_digits": ([("expires_after[seconds]", "٣٦٠٠")], "expires_after[seconds]"),
    "brackets_with_a_blank": ([("expires_after[seconds]", "3600 ")], "expires_after[seconds]"),
    "brackets_twice": ([("expires_after[seconds][]", "3600")], "expires_after[seconds][]"),
    "name_in_quotes": ([("expires_after['seconds']", "3600")], "expires_after"),
    "days": ([("expires_after[days]", "1")], "expires_after[days]"),
    "upper_case": ([("Expires_After[seconds]", "3600")], "Expires_After[seconds]"),
    "camel_case": ([("expiresAfter", "3600")], "expiresAfter"),
    "anthropics": ([("expires_in_seconds", "3600")], "expires_in_seconds"),
    "moment": ([("expires_at", "1767225600")], "expires_at"),
    "mistrals": ([("expiry", "30")], "expiry"),
    "of_a_batch": ([("output_expires_after[seconds]", "3600")], "output_expires_after[seconds]"),
    "time_to_live": ([("ttl", "3600")], "ttl"),
    "time_to_live_of_the_file": ([("file_ttl", "3600")], "file_ttl"),
    "time_to_live_in_words": ([("time_to_live", "3600")], "time_to_live"),
    "lifetime": ([("lifetime", "3600")], "lifetime"),
    "retention": ([("retention_seconds", "3600")], "retention_seconds"),
    "deletion": ([("delete_after", "3600")], "delete_after"),
    "in_two_spellings": ([("expires_after[seconds]", "3600"),
                          ("expires_after.seconds", "3600")], "expires_after.seconds"),
    "in_json_and_brackets": ([("expires_after", '{"anchor":"created_at","seconds":3600}'),
                              ("expires_after[seconds]", "7200")], "expires_after[seconds]"),
    "half": ([("expires_after.seconds", "3600")], "expires_after"),
}  # fmt: skip


def post(client, *parts, headers=OPENAI, status=200):
    return client.post("/v1/files", form(*parts), {**headers, "content-type": form_type()}, status=status)


@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.parametrize("is_first", [True, False])
def test_expiry_in_every_spelling_of_an_sdk_is_honoured(name, is_first, client, upstream):
    """A file that should have gone after an hour stayed for ever, unless the client wrote brackets."""
    upstream.answers(FILE)
    parts = (PURPOSE, *HONOURED[name], CONTENT) if is_first else (CONTENT, *HONOURED[name], PURPOSE)
    answer = post(client, *parts)
    assert upstream.calls[0].upload.fields == {"purpose": "batch", ANCHOR: "created_at", SECONDS: "3600"}
    assert "x-filesproxy-ignored" not in answer.headers


@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.parametrize("is_first", [True, False])
def test_local_file_expires_however_it_was_asked_for(name, is_first, make_client, tmp_path):
    local = make_client(folder=str(tmp_path / "files"), default_provider="local")
    parts = (PURPOSE, *HONOURED[name], CONTENT) if is_first else (CONTENT, *HONOURED[name], PURPOSE)
    made = post(local, *parts, headers={"host": "localhost"}).json
    assert made["expires_at"] == made["created_at"] + 3600


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("is_first", [True, False])
def test_expiry_that_cannot_be_honoured_is_a_400_that_names_the_field(name, is_first, client, upstream):
    upstream.answers(FILE)
    fields, param = REFUSED[name]
    error = post(client, *((PURPOSE, *fields, CONTENT) if is_first else (CONTENT, PURPOSE, *fields)), status=400)
    assert (error.json["error"]["param"], error.json["error"]["type"]) == (param, "invalid_request_error")
    assert upstream.uploads == []


@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.parametrize("is_first", [True, False])
def test_expiry_is_a_400_where_files_do_not_expire(name, is_first, make_client, upstream):
    upstream.answers(FILE)
    headers = {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "r", "api-key": "caller-key"}
    parts = (PURPOSE, *HONOURED[name], CONTENT) if is_first else (CONTENT, PURPOSE, *HONOURED[name])
    error = post(make_client(), *parts, headers=headers, status=400).json["error"]
    assert error["param"] == HONOURED[name][0][0]
    assert upstream.uploads == []


@pytest.mark.parametrize("name", ["name", "expected", "note", "battle", "purpose", "metadata[ttl_note]",
                                  "subtitle", "seattle_time", "metadata[lifetime]", "delete", "delete_attachments",
                                  "undeleted", "lively"])  # fmt: skip
def test_other_fields_are_not_about_expiry(name):
    assert not is_about_expiry(name)


@pytest.mark.parametrize("name", ["fileTTL", "fileTtlSeconds", "file-ttl", "ttlSeconds", "timeToLive", "lifeSpan",
                                  "deleteAt", "delete_in_days", "removeAfterSeconds", "retentionDays",
                                  "metadata[expires_at]"])  # fmt: skip
def test_siblings_of_a_spelling_are_about_expiry(name):
    assert is_about_expiry(name)


def test_field_is_checked_by_the_name_that_the_client_gave_it():
    assert in_brackets("expires_after.seconds", "3600") == {SECONDS: "3600"}
    with pytest.raises(BadRequest, match="expires_after.anchor must be created_at"):
        in_brackets("expires_after.anchor", "x")
