"""The access log's output: lines are written whole, nobody waits for a reader, and dropped lines are counted."""

from __future__ import annotations

import json
import os
import threading

import pytest

from filesproxy.gateway.access_log import Output

LINE = b'{"operation": "health"}\n'


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_all(descriptor):
    os.set_blocking(descriptor, False)
    text = b""
    try:
        while block := os.read(descriptor, 1 << 16):
            text += block
    except BlockingIOError:
        return text.splitlines()
    return text.splitlines()


def test_pipe_that_nobody_reads_stops_nobody_and_says_later_what_was_dropped(pipe):
    """Every request hung after 239 lines."""
    output = Output(pipe[1])
    for _ in range(10_000):
        output.write(LINE)
    kept = read_all(pipe[0])
    assert set(kept) == {LINE.strip()}
    output.write(LINE)
    notice, line = read_all(pipe[0])
    assert json.loads(notice)["dropped_lines"] == 10_000 - len(kept) and line == LINE.strip()
    output.write(LINE)
    assert read_all(pipe[0]) == [LINE.strip()]


def test_writers_in_many_threads_drop_lines_and_never_halves(pipe):
    output = Output(pipe[1])
    threads = [threading.Thread(target=lambda: [output.write(LINE) for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = read_all(pipe[0])
    assert set(kept) == {LINE.strip()}
    output.write(LINE)
    assert json.loads(read_all(pipe[0])[0])["dropped_lines"] == 8000 - len(kept)


def test_pipe_stays_blocking_for_everybody_else(pipe):
    Output(pipe[1]).write(LINE)
    assert os.get_blocking(pipe[1])


def test_reader_that_has_gone_fails_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    output = Output(writing)
    output.write(LINE)
    assert output._dropped == 1
    os.close(writing)


def test_file_gets_every_line_after_what_others_write(tmp_path):
    """`> log 2>&1`: both descriptors share one offset, so the file must not be opened anew."""
    with open(tmp_path / "log", "wb", buffering=0) as file, open(os.dup(file.fileno()), "wb", buffering=0) as other:
        output = Output(file.fileno())
        for _ in range(3):
            output.write(LINE)
            other.write(b"other\n")
    assert (tmp_path / "log").read_bytes() == (LINE + b"other\n") * 3
