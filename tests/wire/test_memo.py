"""Functions of short texts, remembered."""

from __future__ import annotations

import pytest

from filesproxy.wire.memo import MAX_CHARACTERS, MAX_TEXTS, Memo


def test_known_text_is_not_asked_for_again():
    asked = []
    memo = Memo(lambda text: asked.append(text) or len(text))
    assert [memo["ab"], memo["ab"], memo["abc"]] == [2, 2, 3]
    assert asked == ["ab", "abc"]


def test_more_texts_than_it_keeps_are_right():
    memo = Memo(str.upper)
    for number in range(3 * MAX_TEXTS):
        assert memo[f"a{number}"] == f"A{number}"
        assert len(memo) <= MAX_TEXTS


def test_long_text_is_not_kept():
    memo = Memo(len)
    for size in (MAX_CHARACTERS, MAX_CHARACTERS + 1, 1 << 16):
        assert memo["a" * size] == size
    assert list(memo.values()) == [MAX_CHARACTERS]


def test_failure_is_raised_each_time():
    memo = Memo(int)
    for _ in range(2):
        with pytest.raises(ValueError):
            memo["a"]
    assert memo == {}
