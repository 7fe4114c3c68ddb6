"""Byte ranges: which are accepted, what is cut out of a complete answer, what is passed on; every body is closed."""

from __future__ import annotations

import itertools
import random

import pytest
from fakes import NOT_ENCODED, OPENAI, FakeBody, form, form_type

from filesproxy.calls import Answer
from filesproxy.errors import RangeNotSatisfiable, UpstreamError
from filesproxy.transports.local.transport import LocalTransport
from filesproxy.wire.ranges import Slice, conditions, partial

DATA = bytes(range(100, 130))
DATE, LATER = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:01 GMT"
NINETEEN = "9" * 19

# Requests

TAKEN = {
    "bytes=0-9": "bytes=0-9",
    "bytes=0-0": "bytes=0-0",
    "bytes=5-": "bytes=5-",
    "bytes=-5": "bytes=-5",
    "bytes=-0": "bytes=-0",
    "bytes=0-9 ": "bytes=0-9",
    f"bytes={NINETEEN}-": f"bytes={NINETEEN}-",
    f"bytes=0-{NINETEEN}": f"bytes=0-{NINETEEN}",
}
IGNORED = ["", "bytes", "bytes=", "bytes=-", "bytes=--5", "bytes=a-b", "bytes=0-9-", "bytes=0x1-", "bytes=0-9,20-29",
           "bytes=0-9,", "bytes=0-9, -5", "items=0-9", "seconds=1-2", "bytes:0-9", "0-9", "bytes 0-9", "bytes=0-9/30",
           "bytes=+1-2", "bytes=1.0-2", f"bytes={NINETEEN}9-", f"bytes=-{NINETEEN}9", "bytes=٣-٤", "bytes=1 2-3",
           "bytes=0-1 2", "by tes=0-1", "none"]  # fmt: skip


@pytest.mark.parametrize("text", TAKEN)
def test_single_range_of_bytes_is_accepted(text):
    assert conditions({"range": text, "x": "y"}) == {"range": TAKEN[text]}


@pytest.mark.parametrize("text", IGNORED)
def test_other_ranges_are_ignored(text):
    assert conditions({"range": text, "if-range": '"1"'}) == {}


def test_if_range_is_passed_on_only_with_a_range():
    assert conditions({"if-range": '"1"'}) == {}
    assert conditions({"range": "bytes=1-", "if-range": 'W/"1"'}) == {"range": "bytes=1-", "if-range": 'W/"1"'}


# Answers

PARTS = {
    "bytes=0-9": (0, 10),
    "bytes=0-0": (0, 1),
    "bytes=29-29": (29, 30),
    "bytes=10-": (10, 30),
    "bytes=0-": (0, 30),
    "bytes=29-": (29, 30),
    "bytes=20-99": (20, 30),
    "bytes=0-29": (0, 30),
    "bytes=0-30": (0, 30),
    f"bytes=7-{NINETEEN}": (7, 30),
    "bytes=-1": (29, 30),
    "bytes=-30": (0, 30),
    "bytes=-31": (0, 30),
    f"bytes=-{NINETEEN}": (0, 30),
    "bytes=007-008": (7, 9),
}
NO_PARTS = ["bytes=30-", "bytes=30-40", "bytes=31-", f"bytes={NINETEEN}-", f"bytes={NINETEEN}-{NINETEEN}", "bytes=-0",
            "bytes=9-8"]  # fmt: skip


def whole(chunks=(DATA,), status=200, **headers):
    given = {"content-length": str(sum(map(len, chunks))), "content-type": "text/csv"}
    given.update({name.replace("_", "-"): value for name, value in headers.items()})
    return Answer(status, {n: v for n, v in given.items() if v is not None}, body=FakeBody(chunks))


@pytest.mark.parametrize("text", PARTS)
def test_range_is_cut_out_of_a_complete_answer(text):
    start, end = PARTS[text]
    answer = whole()
    part = partial(answer, {"range": text})
    assert (part.status, b"".join(part.body)) == (206, DATA[start:end])
    assert part.headers == {
        "content-length": str(end - start), "content-type": "text/csv", "accept-ranges": "bytes",
        "content-range": f"bytes {start}-{end - 1}/30",
    }  # fmt: skip
    assert answer.body.closed


@pytest.mark.parametrize("text", NO_PARTS)
def test_range_that_the_file_does_not_have_is_a_416_with_the_length(text):
    with pytest.raises(RangeNotSatisfiable) as refused:
        partial(whole(), {"range": text})
    assert (refused.value.status, refused.value.headers) == (416, {"content-range": "bytes */30"})


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=-0", "bytes=1-"])
def test_empty_file_is_answered_whole(text):
    answer = partial(whole(chunks=()), {"range": text})
    assert (answer.status, list(answer.body), answer.headers["content-length"]) == (200, [], "0")


@pytest.mark.parametrize("answered,asked", [({"content-range": "bytes 0-1/30"}, {}), ({}, {"range": "bytes=0-1"})])
def test_206_that_was_not_requested_or_has_no_content_range_is_502(answered, asked):
    with pytest.raises(UpstreamError) as refused:
        partial(Answer(206, answered, body=FakeBody([b"ab"])), asked)
    assert refused.value.status == 502


def test_answer_to_a_request_without_range_has_accept_ranges():
    for chunks in ((DATA,), ()):
        answer = partial(whole(chunks, accept_ranges="none"), {})
        assert (answer.status, answer.headers["accept-ranges"]) == (200, "bytes")
        assert b"".join(answer.body) == b"".join(chunks)


AS_IT_IS = {
    "unknown_length": whole(content_length=None),
    "compressed": whole(content_encoding="gzip"),
    "compressed_and_more": whole(content_encoding="identity, GZIP"),
    "compressed_in_an_unknown_way": whole(content_encoding="aws-chunked"),
    "partial": whole((b"cd",), 206, content_range="bytes 2-3/9"),
    "json": Answer(200, {"content-length": "2"}, {}),
    "no_content": whole((), 204),
}


@pytest.mark.parametrize("name", AS_IT_IS)
def test_answer_that_cannot_be_cut_or_is_partial_already_is_unchanged(name):
    assert partial(AS_IT_IS[name], {"range": "bytes=0-0"}) is AS_IT_IS[name]


@pytest.mark.parametrize("spelling", NOT_ENCODED)
def test_content_that_is_not_encoded_in_any_spelling_is_cut(spelling):
    answer = partial(whole(content_encoding=spelling), {"range": "bytes=2-3"})
    assert (answer.status, b"".join(answer.body)) == (206, DATA[2:4])


VALIDATORS = {
    "equal_tag": ('"v1"', {"etag": '"v1"'}, True),
    "equal_tag_beside_a_date": ('"v1"', {"etag": '"v1"', "last_modified": DATE}, True),
    "tag_with_spaces": ('"v 1"', {"etag": '"v 1"'}, True),
    "another_tag": ('"v2"', {"etag": '"v1"'}, False),
    "tag_in_another_case": ('"V1"', {"etag": '"v1"'}, False),
    "equal_weak_tag": ('W/"v1"', {"etag": 'W/"v1"'}, False),
    "weak_tag_of_the_client": ('W/"v1"', {"etag": '"v1"'}, False),
    "weak_tag_of_the_upstream": ('"v1"', {"etag": 'W/"v1"'}, False),
    "tag_without_quotes": ("v1", {"etag": "v1"}, False),
    "tag_where_there_is_none": ('"v1"', {}, False),
    "tag_where_there_is_a_date": ('"v1"', {"last_modified": DATE}, False),
    "equal_date": (DATE, {"last_modified": DATE}, True),
    "equal_date_beside_a_tag": (DATE, {"last_modified": DATE, "etag": '"v1"'}, True),
    "another_date": (LATER, {"last_modified": DATE}, False),
    "date_where_there_is_none": (DATE, {}, False),
    "date_where_there_is_a_tag": (DATE, {"etag": '"v1"'}, False),
    "tag_that_stands_where_a_date_should": ('"v1"', {"last_modified": '"v1"'}, False),
    "weak_tag_that_stands_where_a_date_should": ('W/"v1"', {"last_modified": 'W/"v1"'}, False),
    "nothing": ("", {}, False),
    "nothing_beside_a_tag": ("", {"etag": '"v1"'}, False),
}


@pytest.mark.parametrize("name", VALIDATORS)
def test_if_range_decides_between_range_and_whole_file(name):
    validator, headers, is_current = VALIDATORS[name]
    answer = partial(whole(**headers), {"range": "bytes=10-19", "if-range": validator})
    assert answer.status == (206 if is_current else 200)
    assert b"".join(answer.body) == (DATA[10:20] if is_current else DATA)
    assert ("content-range" in answer.headers) == is_current


def test_range_after_the_end_of_a_changed_file_is_the_whole_file():
    answer = partial(whole(etag='"v2"'), {"range": "bytes=99-", "if-range": '"v1"'})
    assert (answer.status, b"".join(answer.body)) == (200, DATA)


# Slices

PAIRS = [(start, end) for start in range(30) for end in range(start + 1, 31)]


def cut(data, cuts):
    """The data in chunks that end at these offsets; a repeated offset gives an empty chunk."""
    ends = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in zip(ends, ends[1:])]


def test_slice_of_every_chunking_of_a_small_body_is_right():
    data = DATA[:8]
    for count in range(8):
        for cuts in itertools.combinations(range(1, 8), count):
            for start, end in itertools.combinations(range(9), 2):
                assert b"".join(Slice(FakeBody(cut(data, cuts)), start, end)) == data[start:end], (cuts, start, end)


@pytest.mark.parametrize("size", range(1, 31))
def test_every_slice_of_a_body_in_equal_chunks_is_right(size):
    chunks = [DATA[at : at + size] for at in range(0, 30, size)]
    for start, end in PAIRS:
        body = FakeBody(chunks)
        blocks = list(Slice(body, start, end))
        assert b"".join(blocks) == DATA[start:end], (start, end)
        assert all(blocks)
        assert body.closed


@pytest.mark.parametrize("seed", range(10))
def test_every_slice_of_a_body_in_odd_and_empty_chunks_is_right(seed):
    chance = random.Random(seed)
    for start, end in PAIRS:
        cuts = [chance.randrange(31) for _ in range(chance.randrange(12))]
        body = FakeBody(cut(DATA, cuts))
        assert b"".join(Slice(body, start, end)) == DATA[start:end], (cuts, start, end)
        assert body.closed


def test_slice_reads_nothing_after_its_end():
    for start, end in PAIRS:
        body = FakeBody([*(bytes([byte]) for byte in DATA[:end]), UpstreamError("read too far")])
        assert b"".join(Slice(body, start, end)) == DATA[start:end]


@pytest.mark.parametrize("at", [0, 5, 10, 15, 19])
def test_body_that_raises_before_or_inside_the_range_raises_here(at):
    body = FakeBody([*(bytes([byte]) for byte in DATA[:at]), UpstreamError("cut")])
    part, got = Slice(body, 10, 20), []
    with pytest.raises(UpstreamError):
        for block in part:
            got.append(block)
    assert b"".join(got) == DATA[10:at]
    part.close()
    assert body.closed


@pytest.mark.parametrize("at", [0, 5, 10, 15, 19])
def test_body_that_ends_inside_the_range_is_an_error(at):
    with pytest.raises(UpstreamError):
        list(Slice(FakeBody([DATA[:at]]), 10, 20))


def test_slice_closes_its_body_at_the_end_and_when_closed_early():
    for taken in range(11):
        body = FakeBody([bytes([byte]) for byte in DATA])
        part = Slice(body, 10, 20)
        assert b"".join(itertools.islice(part, taken)) == DATA[10 : 10 + taken]
        assert not body.closed
        part.close()
        part.close()
        assert body.closed


def test_finished_slice_stays_finished():
    part = Slice(FakeBody([DATA]), 0, 5)
    assert list(part) == [DATA[:5]]
    assert list(part) == []


class Skipping(FakeBody):
    """A body that can skip up to `most` bytes."""

    def __init__(self, data, most):
        super().__init__([])
        self._data, self._most = data, most

    def skip(self, size):
        skipped = min(size, self._most)
        self._chunks = iter([self._data[skipped : skipped + 3], self._data[skipped + 3 :]])
        return skipped


@pytest.mark.parametrize("most", [0, 1, 9, 10, 30])
def test_body_that_can_skip_does_and_the_rest_is_discarded(most):
    for start, end in PAIRS:
        assert b"".join(Slice(Skipping(DATA, most), start, end)) == DATA[start:end]


# Through the application


def content(client, upstream, status=200, chunks=(DATA[:7], DATA[7:]), method="GET", answered=200, **asked):
    upstream.status, upstream.chunks = answered, list(chunks)
    headers = {**OPENAI, **{name.replace("_", "-"): value for name, value in asked.items()}}
    return client.request("/v1/files/file-1/content", method=method, headers=headers, status=status)


def test_range_is_passed_on_and_is_cut_if_the_provider_ignores_it(client, upstream):
    upstream.headers = {"content-length": "30", "content-type": "text/csv", "etag": '"v1"'}
    answer = content(client, upstream, 206, range="bytes=5-14", if_range='"v1"')
    assert (answer.body, answer.status) == (DATA[5:15], "206 Partial Content")
    assert (answer.headers["content-range"], answer.headers["content-length"]) == ("bytes 5-14/30", "10")
    assert (answer.headers["etag"], answer.headers["accept-ranges"]) == ('"v1"', "bytes")
    assert {"range": "bytes=5-14", "if-range": '"v1"'}.items() <= upstream.calls[0].headers.items()
    assert upstream.bodies[0].closed


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "items=0-1", "bytes=x", "bytes=-"])
def test_range_that_is_ignored_is_not_sent_upstream(asked, client, upstream):
    upstream.headers = {"content-length": "30"}
    answer = content(client, upstream, range=asked, if_range='"v1"')
    assert (answer.body, answer.headers["accept-ranges"]) == (DATA, "bytes")
    assert not {"range", "if-range"} & set(upstream.calls[0].headers)


def test_stale_if_range_gives_the_whole_file(client, upstream):
    upstream.headers = {"content-length": "30", "etag": '"v2"'}
    answer = content(client, upstream, range="bytes=5-14", if_range='"v1"')
    assert (answer.body, answer.headers["content-length"]) == (DATA, "30")
    assert "content-range" not in answer.headers


def test_unknown_length_gives_the_whole_file(client, upstream):
    answer = content(client, upstream, range="bytes=5-14")
    assert answer.body == DATA
    assert not {"content-range", "accept-ranges"} & {name.lower() for name in answer.headers}


def test_partial_answer_of_the_provider_is_passed_on_and_not_cut_again(client, upstream):
    upstream.headers = {"content-length": "10", "content-range": "bytes 5-14/30"}
    answer = content(client, upstream, 206, [DATA[5:15]], answered=206, range="bytes=5-14")
    assert (answer.body, answer.headers["content-range"]) == (DATA[5:15], "bytes 5-14/30")


def test_416_of_the_provider_keeps_its_content_range(client, upstream):
    upstream.headers = {"content-range": "bytes */30"}
    refused = [b'{"error": {"message": "No such range."}}']
    answer = content(client, upstream, 416, refused, answered=416, range="bytes=99-")
    assert (answer.headers["content-range"], answer.json["error"]["message"]) == ("bytes */30", "No such range.")
    assert upstream.bodies[0].closed


def test_416_of_the_gateway_has_the_length_and_closes_the_body(client, upstream, access_log):
    upstream.headers = {"content-length": "30"}
    answer = content(client, upstream, 416, range="bytes=30-")
    assert answer.headers["content-range"] == "bytes */30"
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.json["error"]["code"] == "range_not_satisfiable"
    assert upstream.bodies[0].closed
    assert (access_log()[-1]["status"], access_log()[-1]["error"]) == (416, "range_not_satisfiable")


@pytest.mark.parametrize("at,status", [(0, 502), (7, 206)])
def test_provider_that_breaks_off_before_or_inside_the_range_is_an_error(at, status, client, upstream):
    upstream.headers = {"content-length": "30"}
    chunks = [*(DATA[n : n + 1] for n in range(at)), UpstreamError("The provider broke off its answer.")]
    if status == 502:
        content(client, upstream, 502, chunks, range="bytes=5-14")
    else:
        with pytest.raises(ConnectionResetError):
            content(client, upstream, 206, chunks, range="bytes=5-14")
    assert upstream.bodies[0].closed


def test_log_counts_the_bytes_of_the_range(client, upstream, access_log):
    upstream.headers = {"content-length": "30"}
    content(client, upstream, 206, range="bytes=-3")
    assert (access_log()[-1]["status"], access_log()[-1]["bytes_out"]) == (206, 3)


@pytest.mark.parametrize("asked", ["bytes=5-14", "bytes=99-"])
def test_head_has_no_ranges(asked, client, upstream):
    """RFC 9110 §14.2: a server MUST ignore Range with any method but GET."""
    upstream.headers = {"content-length": "30", "content-type": "text/csv"}
    answer = content(client, upstream, 200, method="HEAD", range=asked)
    assert (answer.body, answer.headers["content-length"], answer.headers["accept-ranges"]) == (b"", "30", "bytes")
    assert "content-range" not in answer.headers
    assert upstream.bodies[0].closed


def test_range_of_metadata_is_ignored(client, upstream):
    for path in ("/v1/files/file-1", "/v1/files"):
        upstream.answers({"id": "file-1", "data": []})
        answer = client.get(path, headers={**OPENAI, "range": "bytes=0-1"})
        assert answer.json["object"] in ("file", "list")
        assert "range" not in upstream.calls[-1].headers


# The local store


class Counting:
    """A body that counts the bytes read from it."""

    def __init__(self, body):
        self._body, self.skip = body, body.skip
        self.read, self.closed = 0, False

    def __iter__(self):
        return self

    def __next__(self):
        block = next(self._body)
        self.read += len(block)
        return block

    def close(self):
        self._body.close()
        self.closed = True


class Watched:
    """The local transport, with bodies that count their bytes."""

    def __init__(self):
        self._transport, self.bodies = LocalTransport(), []

    def __call__(self, call, target):
        answer = self._transport(call, target)
        if answer.body is None:
            return answer
        self.bodies.append(Counting(answer.body))
        return Answer(answer.status, answer.headers, body=self.bodies[-1])


BIG = random.Random(5).getrandbits(8 * (3 << 20)).to_bytes(3 << 20, "big")


@pytest.fixture
def store():
    return Watched()


@pytest.fixture
def stored(make_client, store, tmp_path):
    """get(status, method, **headers) for the content of a file of 3 MiB in the local store."""
    client = make_client(transports={"local": store}, folder=str(tmp_path), default_provider="local")
    body = form(("purpose", "batch"), ("file", "a.bin", "", BIG))
    file_id = client.post("/v1/files", body, {"content-type": form_type()}).json["id"]

    def get(status=200, method="GET", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.request(f"/v1/files/{file_id}/content", method=method, headers=headers, status=status)

    return get


@pytest.mark.parametrize("start,end", [(0, 1), (0, 3 << 20), (2 << 20, (2 << 20) + 100), ((3 << 20) - 1, 3 << 20),
                                       (1, 1 << 20), (262143, 262145)])  # fmt: skip
def test_store_seeks_to_the_range_and_reads_at_most_a_block_after_it(start, end, stored, store):
    answer = stored(206, range=f"bytes={start}-{end - 1}")
    assert answer.body == BIG[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{3 << 20}"
    (body,) = store.bodies
    assert body.read < end - start + (1 << 18)
    assert body.closed


def test_store_has_a_tag_that_if_range_can_name(stored):
    etag = stored().headers["etag"]
    assert stored(206, range="bytes=-9", if_range=etag).body == BIG[-9:]
    assert stored(200, range="bytes=-9", if_range='"another"').body == BIG
    assert stored(200, range="bytes=-9", if_range=f"W/{etag}").body == BIG


def test_store_refuses_a_range_after_the_end(stored, store):
    answer = stored(416, range=f"bytes={3 << 20}-")
    assert answer.headers["content-range"] == f"bytes */{3 << 20}"
    assert (store.bodies[0].closed, store.bodies[0].read) == (True, 0)


def test_store_answers_head_without_ranges_and_reads_nothing(stored, store):
    answer = stored(200, "HEAD", range="bytes=0-9")
    assert (answer.headers["content-length"], answer.headers["accept-ranges"]) == (str(3 << 20), "bytes")
    assert (store.bodies[0].closed, store.bodies[0].read) == (True, 0)
