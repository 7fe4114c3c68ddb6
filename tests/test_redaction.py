"""Secrets: hidden in a repr, removed from text in every form, and several of them together."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest

from filesproxy.redaction import FixedCredentials, Secret, redact, single_credential

ODD = 'sk "canary"/\\é+7f3a9c'


def test_secret_behaves_as_its_text_except_in_a_repr():
    secret = Secret("sk-secret")
    assert (secret, f"Bearer {secret}", secret[:3], len(secret), bool(Secret())) == (
        "sk-secret", "Bearer sk-secret", "sk-", 9, False)  # fmt: skip
    assert repr(secret) == repr([secret])[1:-1] == "'[secret]'"
    assert hash(secret) == hash("sk-secret")


@pytest.mark.parametrize("secret", ["sk-canary-7f3a9c", ODD])
@pytest.mark.parametrize("ahead", ["", "a", "ab", "abc", "user:"])
def test_every_form_of_a_secret_is_redacted(secret, ahead):
    forms = {
        "plain": secret,
        "json": json.dumps(secret)[1:-1],
        "url": quote(secret, safe=""),
        "url in lower case": re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
        "base64": b64encode((ahead + secret).encode()).decode(),
        "base64 for urls": urlsafe_b64encode((ahead + secret).encode()).decode(),
    }
    for name, form in forms.items():
        clean = redact(f"before {form} after", [Secret(secret)])
        assert "[redacted]" in clean, name
        assert secret not in clean and "7f3a9c" not in clean, name


def test_several_secrets_are_redacted_longest_first():
    secrets = [Secret("key-id-1"), Secret("key-id-1-and-more"), Secret("token-no-2"), Secret()]
    assert redact("a key-id-1-and-more b key-id-1 c token-no-2", secrets) == "a [redacted] b [redacted] c [redacted]"


def test_text_without_a_secret_is_unchanged():
    assert redact("some text", [Secret("sk-secret")]) == "some text"
    assert redact("some text", []) == redact("some text", [Secret()]) == "some text"


def test_fixed_credentials_never_change_and_iterate_over_their_secrets():
    both = FixedCredentials({"access_key_id": Secret("id"), "secret_access_key": Secret("key")})
    assert both.now() == both.now() == {"access_key_id": "id", "secret_access_key": "key"}
    assert list(both) == ["id", "key"]
    assert list(single_credential(Secret("one"))) == ["one"] and list(single_credential(Secret())) == []


def test_redaction_replaces_each_occurrence_in_each_form_and_ignores_an_empty_secret():
    assert redact("a sk-no-01 b sk-no-01, sk-no-02", [Secret("sk-no-01")]) == "a [redacted] b [redacted], sk-no-02"
    text = 's/"no-001 s/\\"no-001 s%2F%22no-001 cy8ibm8tMDAx'
    assert redact(text, [Secret('s/"no-001')]) == "[redacted] [redacted] [redacted] [redacted]"


@pytest.mark.parametrize("token", ["i", "id", "batch", "1234567"])
def test_token_under_eight_characters_redacts_nothing(token):
    """`Basic i` took every i out of the access log."""
    assert redact(f"a file-{token}", [Secret(token)]) == f"a file-{token}"
    assert redact(f"a {token}-and-more", [Secret(token), Secret(f"{token}-and-more")]) == "a [redacted]"
    assert redact("nothing", [Secret("")]) == "nothing"


@pytest.mark.parametrize("around", [("", ""), ("u:", ""), ("user:", "!"), ("a", "bc")])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("strip", ["", "="])
def test_redaction_finds_base64_at_any_offset_in_both_alphabets_padded_or_not(around, encode, strip):
    text = encode(f"{around[0]}sk-?>~canary-0123{around[1]}".encode()).decode().rstrip(strip)
    left = redact(f"Basic {text}", [Secret("sk-?>~canary-0123")]).replace("Basic ", "")
    assert "[redacted]" in left and len(left.replace("[redacted]", "")) <= 10


def test_redaction_finds_percent_encoding_in_either_case():
    assert redact("sk%2fno-01 sk%2Fno-01", [Secret("sk/no-01")]) == "[redacted] [redacted]"


ESCAPED = {
    "url_with_slashes": lambda text: quote(text),
    "form": lambda text: quote_plus(text),
    "url_twice": lambda text: quote(quote(text, safe="")),
    "percent": lambda text: "".join(f"%{ord(letter):02x}" for letter in text),
    "percent_in_upper_case": lambda text: "".join(f"%{ord(letter):02X}" for letter in text),
    "php": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json_in_json": lambda text: json.dumps(json.dumps(text))[3:-3],
    "php_in_json": lambda text: json.dumps(json.dumps(text)[1:-1].replace("/", "\\/"))[1:-1],
    "unicode": lambda text: re.sub("[^A-Za-z0-9]", lambda found: f"\\u{ord(found[0]):04X}", text),
    "unicode_in_lower_case": lambda text: re.sub("[^A-Za-z0-9]", lambda found: f"\\u{ord(found[0]):04x}", text),
    "html": lambda text: html.escape(text),
    "html_numbers": lambda text: re.sub("[^A-Za-z0-9]", lambda found: f"&#{ord(found[0])};", text),
    "html_hex": lambda text: re.sub("[^A-Za-z0-9]", lambda found: f"&#x{ord(found[0]):02X};", text),
    "mixed": lambda text: text.replace("/", "%2f").replace("+", "\\u002b").replace("=", "&#61;", 1),
}


@pytest.mark.parametrize(
    "secret", ["abcd/efgh+ijkl==", "sk-proj-a_b.c~d", "a\"b\\c<d>e&f'g h", "/+leads-special", "ends-in&%"]
)
@pytest.mark.parametrize("write", ESCAPED.values(), ids=ESCAPED)
def test_secret_is_redacted_however_its_special_characters_are_escaped(write, secret):
    """`abcd/efgh%2Bijkl`, a PHP host's `abcd\\/efgh` and `&#43;` were relayed."""
    assert redact(f"before {write(secret)} after", [Secret(secret)]) == "before [redacted] after"


def test_search_for_escapes_takes_time_in_proportion_to_the_text():
    """A secret of backslashes, in a text of backslashes, with a search that goes back would take for ever."""
    text = "\\" * 20_000 + "%25" * 20_000 + "&amp;" * 20_000
    assert redact(text, [Secret("\\\\a\\\\b\\\\&&%%c"), Secret("%%%%%%%%/")]) == text
