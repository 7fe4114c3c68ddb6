"""The shared types: uploads that are read once, and immutable values that show no credential."""

from __future__ import annotations

import subprocess
import sys

import pytest

from filesproxy.calls import Answer, Call, Content, Target, Upload
from filesproxy.errors import UpstreamError
from filesproxy.redaction import Secret, single_credential

CALL = Call("list_files", "GET", "/files")
CANARY = "sk-canary-7f3a9c"


def test_upload_counts_the_bytes_read_and_can_be_read_once():
    upload = Upload("a", "text/csv", {}, iter([b"abc", b"", b"de"]))
    assert upload.size == 0
    chunks = iter(upload)
    assert (next(chunks), upload.size) == (b"abc", 3)
    assert list(chunks) == [b"", b"de"]
    assert (upload.size, list(upload), upload.size) == (5, [], 5)


def test_late_fields_appear_in_the_mapping_that_the_upload_was_given():
    def chunks():
        yield b"x"
        fields["late"] = "1"

    fields, ignored = {"early": "1"}, []
    upload = Upload("a", "text/csv", fields, chunks(), ignored)
    ignored.append("shade")
    assert upload.fields == {"early": "1"}
    list(upload)
    assert upload.fields == {"early": "1", "late": "1"}
    assert upload.ignored == ["shade"]


def test_upload_keeps_its_size_when_it_fails():
    def chunks():
        yield b"abc"
        raise UpstreamError("cut")

    upload = Upload("a", "text/csv", {}, chunks())
    with pytest.raises(UpstreamError):
        list(upload)
    assert upload.size == 3


def planted():
    """A call, an answer and a target with a canary in every field that can contain text."""
    held = {CANARY: CANARY}
    call = Call("list_files", "GET", f"/{CANARY}", held, held, held, None, Content(1, CANARY, [CANARY.encode()]),
                "json", CANARY, None, True, True, CANARY, f"https://{CANARY}", 1.0)  # fmt: skip
    answer = Answer(200, held, held, iter([CANARY.encode()]), [CANARY])
    credentials = single_credential(Secret(CANARY))
    target = Target("openai", held, f"https://{CANARY}", held, credentials, True, CANARY, credentials.now())
    return call, answer, target


@pytest.mark.parametrize("value", planted(), ids=lambda value: type(value).__name__)
def test_secret_in_any_field_is_in_no_repr_and_no_format(value):
    shown = [repr(value), str(value), f"{value}", f"{value!r}", "{}".format(value), "%s %r" % (value, value),  # noqa: UP031, UP032
             repr([value]), repr({"a": value})]  # fmt: skip
    with pytest.raises(TypeError) as refused:
        "%s" % value  # noqa: UP031  % unpacks a tuple
    shown.append(str(refused.value))
    assert not [text for text in shown if CANARY in text]


def test_secret_in_any_field_is_in_no_failure_that_pytest_reports(tmp_path):
    """pytest shows the fields of named tuples that differ, and the arguments of functions in a traceback."""
    (tmp_path / "test_failing.py").write_text(
        "import pytest\n"
        "from test_calls import planted\n"
        "VALUES = planted()\n"
        "@pytest.mark.parametrize('value', VALUES, ids=['call', 'answer', 'target'])\n"
        "def test_differs(value):\n"
        "    other = value._replace(**{value._fields[0]: 'other'})\n"
        "    assert value == other\n"
        "@pytest.mark.parametrize('value', VALUES, ids=['call', 'answer', 'target'])\n"
        "def test_raises(value):\n"
        "    def inner(argument):\n"
        "        raise ValueError\n"
        "    inner(value)\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-vv", "--showlocals", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=path_of_this_suite())
    assert "6 failed" in done.stdout, done.stdout + done.stderr
    # pytest also prints the source of the failing file, which does not contain the canary
    assert CANARY not in done.stdout + done.stderr


def path_of_this_suite():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize("value", planted(), ids=lambda value: type(value).__name__)
def test_values_cannot_be_hashed_and_do_not_change(value):
    with pytest.raises(TypeError):
        hash(value)
    with pytest.raises(AttributeError):
        setattr(value, value._fields[0], "other")
    with pytest.raises(AttributeError):
        value.shade = "blue"


def test_values_are_equal_by_type_and_fields():
    assert Call("a", "GET", "/b", {"limit": "1"}) == Call(operation="a", method="GET", path="/b", query={"limit": "1"})
    assert Call("a", "GET", "/b") != Call("a", "GET", "/c")
    assert Call("a", "GET", "/b") != tuple(Call("a", "GET", "/b"))
    assert Answer(200)._replace(json=[1]) == Answer(200, json=[1])


def test_call_without_a_path_or_with_an_unknown_field_is_a_type_error():
    for given in ({}, {"path": "/files", "shade": "blue"}, {"shade": "blue"}):
        with pytest.raises(TypeError):
            Call("list_files", "GET", **given)
    with pytest.raises((TypeError, ValueError)):
        CALL._replace(shade="blue")


@pytest.mark.parametrize(
    "read_default",
    [lambda: CALL.query, lambda: CALL.headers, lambda: Answer(200).headers, lambda: Target("a", {}, "").settings,
     lambda: Target("a", {}, "").secrets],
)  # fmt: skip
def test_defaults_are_shared_and_read_only(read_default):
    with pytest.raises(TypeError):
        read_default()["key"] = "secret"
    assert read_default() == {}


def test_target_without_credentials_has_an_empty_secret():
    assert (Target("a", {}, "").secret, list(Target("a", {}, "").credentials)) == ("", [])
