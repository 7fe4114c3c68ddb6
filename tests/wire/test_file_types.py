"""What a file is: its first bytes, the types that it was given, and the end of its name, in this order."""

from __future__ import annotations

import pytest

from filesproxy.wire.file_types import HEAD_BYTES, KINDS, kind_of, media_type_of

PNG, ZIP = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"PK\x03\x04\x14\0"
MAGIC = [
    (PNG, "image/png", "image"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg", "image"),
    (b"GIF87a", "image/gif", "image"),
    (b"GIF89a\1\0", "image/gif", "image"),
    (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp", "image"),
    (b"RIFF\x24\n\0\0WAVEfmt ", "audio/wav", "audio"),
    (b"ID3\x04\0\0", "audio/mpeg", "audio"),
    (b"\xff\xfb\x90\x64", "audio/mpeg", "audio"),
    (b"\xff\xf3\x40\xc0", "audio/mpeg", "audio"),
    (b"%PDF-1.7\n", "application/pdf", "pdf"),
    (b"\0\0\0\x20ftypisom\0\0\2\0", "video/mp4", "video"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x84webm", "video/webm", "video"),
]


@pytest.mark.parametrize("head,media_type,kind", MAGIC)
@pytest.mark.parametrize("said", ["", "text/plain", "application/octet-stream", "application/msword"])
def test_first_bytes_decide_whatever_else_is_said(head, media_type, kind, said):
    found = media_type_of(head, said, said, "notes.txt")
    assert (found, kind_of(found, head)) == (media_type, kind)


@pytest.mark.parametrize(
    "head,media_type",
    [
        (ZIP, "application/zip"),  # a .docx, too
        (b"\0\0\0\x18ftypheic", "image/heic"),
        (b"\0\0\0\x18ftypM4A ", "audio/mp4"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "video/x-matroska"),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"BM\x36\0", "image/bmp"),
        (b"fLaC\0", "audio/flac"),
        (b"not an image", "image/png"),  # a type alone makes nothing an image
        (b"", "application/pdf"),
        (b"\x89PNG\r\n", "image/png"),  # cut
    ],
)
def test_what_no_request_can_hold_has_no_kind(head, media_type):
    found = media_type_of(head, "", media_type, "x")
    assert (found, kind_of(found, head)) == (media_type, None)


@pytest.mark.parametrize(
    "media_type",
    ["text/plain; charset=utf-8", "text/csv", "TEXT/Markdown", "text/x-python", "text/html", "application/json",
     "application/vnd.api+json", "image/svg+xml", "application/xml", "application/x-yaml", "application/jsonl",
     "application/x-ndjson", "application/javascript", "application/x-sh", "application/toml",
     "application/sql"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["given", "uploaded"])
def test_types_of_texts_make_a_text(media_type, place):
    given, uploaded = (media_type, "image/png") if place == "given" else ("", media_type)
    assert media_type_of(b"hello", given, uploaded, "x.bin") == "text/plain"


@pytest.mark.parametrize("nothing", ["", "application/octet-stream", "Application/Octet-Stream; x=y", " "])
@pytest.mark.parametrize("name", ["notes", "Dockerfile", "notes.weird", ".gitignore", "a.csv", "a."])
def test_what_nothing_is_known_of_may_be_a_text(nothing, name):
    assert media_type_of(b"hello", nothing, nothing, name) == "text/plain"


@pytest.mark.parametrize(
    "name,uploaded",
    [
        ("sales.csv", "application/vnd.ms-excel"),  # browsers on Windows, if Excel is installed
        ("main.ts", "video/mp2t"),  # Python's mimetypes, so the SDKs
        ("App.TSX", "video/mp2t"),
        ("solve.m", "application/x-matlab-data"),
        ("run.pl", "application/x-perl-script"),
    ],
)
def test_end_of_the_name_makes_a_text_of_what_systems_have_another_type_for(name, uploaded):
    assert media_type_of(b"hello", "", uploaded, name) == "text/plain"


def test_type_in_the_request_comes_before_that_of_the_upload_and_the_name():
    assert media_type_of(b"hello", "application/msword", "text/csv", "a.csv") == "application/msword"
    assert media_type_of(b"hello", "text/csv", "application/msword", "a.doc") == "text/plain"
    assert media_type_of(b"hello", "application/octet-stream", "application/msword", "a.doc") == "application/msword"


def test_byte_order_marks_are_not_music():
    for mark in (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"):
        assert media_type_of(mark + b"h\0", "", "", "a.txt") == "text/plain"


def test_every_kind_can_be_recognised_within_the_bytes_that_are_looked_at():
    assert {kind for _, _, kind in MAGIC} | {"text"} == set(KINDS)
    assert all(len(head) <= HEAD_BYTES for head, _, _ in MAGIC)
