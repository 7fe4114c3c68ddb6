"""Fuzzing with a seed: any bytes in any chunking parse or raise MultipartError; so for all that a client can write."""

from __future__ import annotations

import os
import random

import pytest
from forms import bodies, outcome

from filesproxy.errors import ClientError, FilesproxyError, MultipartError
from filesproxy.gateway.portkey import read_config
from filesproxy.gateway.router import route
from filesproxy.providers import PROVIDERS
from filesproxy.providers.table import scope_of
from filesproxy.wire.lists import list_query
from filesproxy.wire.multipart import boundary_of, parse_header

CASES = int(os.environ.get("FUZZ_CASES", "4000"))  # of the multipart fuzzer; the others run as many
SEED = 20240917
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "", "get", "GÉT")
ALPHABET = " \t;=\"\\%/*'.,-_aZ0\r\n\0é\u2028\U0001f389:?#[]"


def text(rng, starts):
    """Text that starts well and goes on badly."""
    return rng.choice(starts) + "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, 12))) + rng.choice(starts)


@pytest.mark.fuzz
def test_any_bytes_in_any_chunking_parse_or_raise_multipart_error_and_always_the_same():
    parsed = 0
    for body, boundary, rng in bodies(SEED, CASES):
        whole = outcome(body, boundary)
        sizes = [rng.randint(1, 50) for _ in range(len(body))]
        assert outcome(body, boundary, sizes) == whole, (body, boundary, sizes)
        size = rng.choice((1, 2, 5, len(boundary) + 3, len(boundary) + 4))
        assert outcome(body, boundary, (), size) == whole, (body, boundary, size)
        parsed += whole[1] is None
    assert CASES // 10 < parsed < CASES * 9 // 10  # a fuzzer that only breaks, or never does, tests nothing


@pytest.mark.fuzz
def test_whatever_parses_is_safe_to_send_on():
    for body, boundary, _ in bodies(SEED + 1, CASES // 4):
        for _, filename, content_type, _ in outcome(body, boundary)[0]:
            assert content_type.isascii() and content_type.isprintable() and "/" in content_type
            assert not any(ord(character) < 32 or ord(character) == 127 for character in filename or "")
            (filename or "").encode("utf-8")


@pytest.mark.fuzz
def test_any_header_parses_or_raises_multipart_error():
    rng = random.Random(SEED + 2)
    starts = (
        "form-data",
        "; name=",
        '; filename="',
        '"',
        '\\"',
        "; a=b",
        ";",
        ";;",
        "; ",
        "multipart/form-data; boundary=",
        "",
    )
    for _ in range(CASES):
        value = text(rng, starts) + text(rng, starts)
        try:
            head, parameters = parse_header(value)
        except MultipartError:
            continue
        assert head == head.lower().strip(" \t")
        assert all(name == name.lower() and name.isascii() for name in parameters)


@pytest.mark.fuzz
def test_any_content_type_gives_a_boundary_or_raises_multipart_error():
    rng = random.Random(SEED + 3)
    starts = ("multipart/form-data", "; boundary=", '; boundary="', '"', "; charset=utf-8", "x" * 130, ";;", "")
    for _ in range(CASES):
        value = text(rng, starts) + text(rng, starts)
        try:
            boundary = boundary_of(value)
        except MultipartError:
            continue
        assert 1 <= len(boundary) <= 256 and not boundary.endswith(b" ") and not set(b'\r\n\0"\\') & set(boundary)


@pytest.mark.fuzz
def test_any_path_names_an_operation_or_is_a_client_error():
    rng = random.Random(SEED + 4)
    starts = (
        "/v1/files",
        "/v1/files/",
        "/content",
        "/",
        "",
        "file-1",
        "..",
        "//",
        "/v1",
        "%2e",
        "/v1/models/",
        "/v1/containers/",
        "/v1/vector_stores/",
        "/files/",
        ":id",
        ":model",
        "@vllm/",
        "ft:a::b",
    )
    for _ in range(CASES):
        method, path = rng.choice(METHODS), text(rng, starts) + rng.choice(starts)
        try:
            match = route(method, path)
        except ClientError as error:
            assert error.status in (400, 404, 405)
            continue
        for each in (*match.ids, *match.model.split("/")):
            assert each.isascii() and each not in (".", "..") and not set(each) & set("/?#%\\ \r\n")
        assert ":id" not in match.path.split("/") or match.model
        assert match.path.count("/") == path.count("/") - 1 or path in ("", "/")


@pytest.mark.fuzz
def test_any_config_of_portkeys_is_taken_or_a_400_and_never_says_where_to_go():
    rng = random.Random(SEED + 6)
    scope = scope_of(PROVIDERS)
    starts = ("{", "}", '"provider"', ":", '"@a"', ",", '"targets"', '"apiKey"', "[", "]", "1", "null",
              '"request_timeout"',
              '"virtual_key"', '"retry"', '"\\u0070rovider"', "true", "pc-1", " ")  # fmt: skip
    for _ in range(CASES):
        given = (
            "".join(rng.choice(starts) for _ in range(rng.randint(0, 12))) if rng.random() < 0.7 else text(rng, starts)
        )
        try:
            found = read_config({"x-portkey-config": given}, scope)
        except ClientError as error:
            assert error.status == 400
            continue
        assert found.provider.isascii() and "," not in found.provider and not set(found.provider) & set(" \r\n")
        assert all(name.startswith("x-portkey-config.") and name.isascii() for name in found.ignored)


@pytest.mark.fuzz
def test_any_query_is_a_list_query_or_a_client_error():
    rng = random.Random(SEED + 5)
    values = (
        "limit",
        "after",
        "order",
        "purpose",
        "asc",
        "desc",
        "1",
        "10000",
        "99999",
        "batch",
        "file-1",
        "",
        "x",
        "٣",
    )
    for _ in range(CASES):
        names = rng.sample(("limit", "after", "order", "purpose", "other"), rng.randint(0, 5))
        query = {name: rng.choice(values) if rng.random() < 0.8 else text(rng, values) for name in names}
        try:
            known = list_query(query)
        except FilesproxyError as error:
            assert error.status == 400
            continue
        assert known.items() <= query.items()
        assert set("".join(known.values())) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@pytest.mark.parametrize("value", ["\ud800", "x; a=\ud800", 'x; a="\ud800\udfff"', "x; boundary=\udcff"])
def test_lone_surrogates_do_no_harm(value):
    head, _ = parse_header(value)
    assert head in ("\ud800", "x")
    with pytest.raises(MultipartError):
        boundary_of(value)
