"""Uploads as clients write them: large, awkward, split anywhere, out of form, over a limit."""

from __future__ import annotations

import os
from hashlib import sha256

import pathological as bad
import pytest
from fakes import BOUNDARY, form, form_type
from pathological import file_part
from scene import (
    A_FILE,
    END,
    FILE_HEAD,
    GATEWAY_KEY,
    HELLO,
    MIB,
    PURPOSE,
    ask,
    cpu_seconds,
    growing_at_most,
    outcome,
    upload,
    upload_head,
)
from sockets import chunked, request, until


def test_upload_of_512_mebibytes_costs_no_memory(gateway, stage):
    if gateway.kind != "gunicorn":
        pytest.skip("once, under gunicorn: the application's part is the same, and waitress has a temporary file")
    block, count = os.urandom(MIB), 512
    digest = sha256()
    for _ in range(count):
        digest.update(block)
    stage.play(bad.hashing)
    upload(gateway, provider="patient")
    body = [PURPOSE + FILE_HEAD, *[block] * count, END]
    with growing_at_most(gateway, 16 * MIB):
        reply = ask(gateway, upload_head("patient", content_length=str(sum(map(len, body)))), *body)
    assert reply.status == 200
    assert (stage.peers[-1].size, stage.peers[-1].sha256) == (count * MIB, digest.hexdigest())


def test_form_is_the_same_wherever_it_is_split(gateway, stage):
    body = form(("purpose", "batch"), ("file", "a\u00e9.bin", "text/csv", b"\r\n--\r\n--a-b\r"), ("x", "y"))
    head = upload_head("patient", transfer_encoding="chunked")
    splits = [[body[:at], body[at:]] for at in range(1, len(body))]
    splits.append([body[at : at + 1] for at in range(len(body))])
    for blocks in splits:
        framed = b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks)
        assert ask(gateway, head + framed + b"0\r\n\r\n").status == 200
    assert until(lambda: len(stage.peers) == len(splits) and all(peer.over.is_set() for peer in stage.peers))
    assert {file_part(peer) for peer in stage.peers} == {("a\u00e9.bin", "text/csv", b"\r\n--\r\n--a-b\r")}


AWKWARD = {
    "line_ends": b"\r\n\r\n\n\n\r\r\n" * 100,
    "nul": bytes(1000),
    "every_byte": bytes(range(256)) * 10,
    "delimiter_less_a_byte": f"\r\n--{BOUNDARY[:-1]}\r\n\r\n--{BOUNDARY[:-1]}".encode(),
    "boundary_without_line_end": f"x--{BOUNDARY}--\n--{BOUNDARY}\r--{BOUNDARY}".encode(),
    "ends_with_cr": b"a\r\n\r",
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_bytes_arrive_as_they_are(name, gateway, stage):
    assert upload(gateway, form(("purpose", "batch"), ("file", "a", "", AWKWARD[name]))).status == 200
    assert file_part(stage.peer)[2] == AWKWARD[name]


PURPOSES = {
    "before": ([("purpose", "batch"), A_FILE], 200, True),
    "after": ([A_FILE, ("purpose", "batch")], 200, True),
    "absent": ([A_FILE], 400, True),
    "twice_before": ([("purpose", "batch"), ("purpose", "batch"), A_FILE], 400, False),
    "twice_around": ([("purpose", "batch"), A_FILE, ("purpose", "batch")], 400, True),
    "a_mebibyte_before": ([("purpose", "a" * MIB), A_FILE], 400, False),
    "a_mebibyte_after": ([A_FILE, ("purpose", "a" * MIB)], 400, True),
}


@pytest.mark.parametrize("name", PURPOSES)
def test_purpose_may_be_anywhere_once(name, gateway, stage):
    parts, status, is_called = PURPOSES[name]
    assert outcome(upload(gateway, form(*parts)))[0] == status
    assert stage.calls() == is_called
    if is_called:
        assert stage.peer.complete == (status == 200)  # else nothing whole has arrived


FILES = {
    "none": ([("purpose", "batch")], 400, False),
    "two": ([("purpose", "batch"), A_FILE, A_FILE], 400, True),
    "empty": ([("purpose", "batch"), ("file", "a", "", b"")], 200, True),
}


@pytest.mark.parametrize("name", FILES)
def test_there_is_one_file_and_it_may_be_empty(name, gateway, stage):
    parts, status, is_called = FILES[name]
    assert outcome(upload(gateway, form(*parts)))[0] == status
    assert stage.calls() == is_called
    if is_called:
        assert stage.peer.complete == (status == 200)
    if status == 200:
        assert file_part(stage.peer)[2] == b""


LONG_HEADER = FILE_HEAD.replace(b"\r\n\r\n", b"\r\nX-A: " + b"a" * 5000 + b"\r\n\r\n")
FORMS = {
    "33_parts": (form(*[(f"x{n}", "y") for n in range(32)], ("file", "a", "", b"")), form_type(), 400),
    "header_block_of_5_kb": (PURPOSE + LONG_HEADER + b"x" + END, form_type(), 400),
    "boundary_of_257": (form(("purpose", "batch"), A_FILE, boundary="b" * 257), form_type("b" * 257), 400),
    "no_boundary": (HELLO, "multipart/form-data", 400),
    "boundary_of_256": (form(("purpose", "batch"), A_FILE, boundary="b" * 256), form_type("b" * 256), 200),
    "quoted_with_spaces": (form(("purpose", "batch"), A_FILE, boundary="a b c"), form_type('"a b c"'), 200),
}


@pytest.mark.parametrize("name", FORMS)
def test_form_has_limits(name, gateway, stage):
    body, content_type, status = FORMS[name]
    assert outcome(upload(gateway, body, content_type=content_type))[0] == status
    assert stage.calls() == (status == 200)


def test_preamble_of_100_megabytes_is_refused_early(gateway, stage):
    head = upload_head(content_length=str(100 * MIB + len(HELLO)))
    before = cpu_seconds(gateway)
    reply = ask(gateway, head, *[b"\r\n" * (MIB // 2)] * 100, HELLO)
    assert outcome(reply) == (400, "invalid_multipart")
    assert stage.calls() == 0
    if gateway.kind != "waitress":  # which writes all of it to a file first
        assert cpu_seconds(gateway) - before < 1


def test_epilogue_is_not_forwarded_and_soon_too_long(gateway, stage):
    assert upload(gateway, HELLO + b"--".join([b"x" * 100] * 100)).status == 200
    assert stage.peer.complete and b"xxx" not in stage.peer.received
    stage.play(stage.script)
    before = cpu_seconds(gateway)
    reply = ask(gateway, upload_head(content_length=str(100 * MIB + len(HELLO))), HELLO, *[bytes(MIB)] * 100)
    assert outcome(reply) == (400, "invalid_multipart")
    assert not stage.peer.complete and len(stage.peer.received) < 2000
    if gateway.kind != "waitress":
        assert cpu_seconds(gateway) - before < 1


FILENAMES = {
    "utf_8": ('filename="\u65e5\u672c\u8a9e.pdf"'.encode(), "\u65e5\u672c\u8a9e.pdf"),
    "latin_1": (b'filename="caf\xe9.txt"', "caf\u00e9.txt"),
    "escaped_quote": (b'filename="a\\"b.txt"', 'a"b.txt'),
    "percent_quote": (b'filename="a%22b.txt"', 'a"b.txt'),
    "windows_path": (b'filename="C:\\x\\y"', "C:\\x\\y"),
    "extended": (b"filename*=UTF-8''na%C3%AFve.txt", "na\u00efve.txt"),
    "both": (b"filename=\"plain\"; filename*=UTF-8''other", "plain"),
    "a_path": (b'filename="../../etc/passwd"', "../../etc/passwd"),
    "crlf": (b'filename="a\r\nX-Evil: b"', None),
    "encoded_crlf_in_extended": (b"filename*=UTF-8''a%0D%0Ab", None),
    "bare_cr": (b'filename="a\rb"', None),
    "nul": (b'filename="a\0b"', None),
    "5_kb": (b'filename="' + b"a" * 5000 + b'"', None),
}


@pytest.mark.parametrize("name", FILENAMES)
def test_filename_is_understood_or_refused(name, gateway, stage):
    sent, understood = FILENAMES[name]
    reply = upload(gateway, PURPOSE + FILE_HEAD.replace(b'filename="a"', sent) + b"hello" + END)
    assert outcome(reply)[0] == (200 if understood else 400)
    assert stage.calls() == bool(understood)
    if understood:
        assert file_part(stage.peer)[0] == understood


def test_filename_is_never_a_path(gateway, stage, scene):
    body = PURPOSE + FILE_HEAD.replace(b'"a"', b'"../../escaped-heavy"') + b"hello" + END
    reply = upload(gateway, body, "local", host="localhost")
    assert reply.status == 200
    assert not list(scene.folder.rglob("*escaped-heavy*"))


STRUCTURED = {
    "message/rfc822": b"Subject: a\r\n\r\nb\r\n",
    "multipart/mixed": b"--x\r\n\r\na\r\n--x--\r\n",
    "text/plain": b"aGVsbG8=",  # looks encoded
}


@pytest.mark.parametrize("media_type", STRUCTURED)
def test_structured_parts_are_opaque(media_type, gateway, stage):
    headers = f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: binary\r\n\r\n".encode()
    file_head = FILE_HEAD.replace(b"\r\n\r\n", b"\r\n" + headers)
    assert upload(gateway, PURPOSE + file_head + STRUCTURED[media_type] + END).status == 200
    assert file_part(stage.peer)[1:] == (media_type, STRUCTURED[media_type])


def keyed_upload(framed):
    return request("POST", "/v1/files", b"", {
        "x-portkey-provider": "@openai", "x-portkey-api-key": GATEWAY_KEY, "connection": "close",
        "content-type": form_type(), **framed,
    })  # fmt: skip


def test_body_over_the_limit_is_413_before_any_call(keyed, stage):
    body = PURPOSE + FILE_HEAD + bytes(2 * MIB) + END
    reply = ask(keyed, keyed_upload({"content-length": str(len(body))}), body)
    assert outcome(reply) == (413, "request_too_large")
    assert stage.calls() == 0


def test_chunks_over_the_limit_are_413_and_complete_nothing(keyed, stage):
    body = chunked(PURPOSE + FILE_HEAD + bytes(2 * MIB) + END)
    reply = ask(keyed, keyed_upload({"transfer-encoding": "chunked"}), body)
    assert outcome(reply) == (413, "request_too_large")
    assert stage.calls() == 0 or not stage.peer.complete
