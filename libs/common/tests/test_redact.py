"""In which forms a registered secret is masked, and for how long."""

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus, urlencode

import pytest
from common import redact, secrets
from common.errors import CredentialsRefusedError

SECRET = 'cän4ry/of "the" <coal>&mine+1'


@pytest.fixture(autouse=True)
def empty_register(monkeypatch):
    """Of this test alone."""
    monkeypatch.setattr(redact, "_slots", {})
    monkeypatch.setattr(redact, "_layers", ())


SHOWN = {
    "plain": SECRET,
    "url": quote(SECRET),
    "url-whole": quote(SECRET, safe=""),
    "form": quote_plus(SECRET),
    "query": urlencode({"password": SECRET}),
    "json": json.dumps({"password": SECRET}),
    "json-unicode": json.dumps({"password": SECRET}, ensure_ascii=False),
    "python": repr({"password": SECRET}),
    "xml": f"<password>{html.escape(SECRET, quote=False)}</password>",
    "xml-attribute": f'password="{html.escape(SECRET)}"',
    **{
        f"base64 behind {before!r}": base64.b64encode(f"{before}{SECRET}{behind}".encode()).decode()
        for before in ("", "a", "me:", "root@pam:", "administrator@vsphere.local:")
        for behind in ("", "\n")
    },
    "base64 of a URL": base64.urlsafe_b64encode(f"ab{SECRET}".encode()).decode(),
}


@pytest.mark.parametrize("form", SHOWN)
def test_a_secret_is_masked_in_every_form_that_a_library_may_show(form):
    redact.register(SECRET)
    shown = redact.text(f"sent {SHOWN[form]} to the host")
    assert redact.MASK in shown
    left = shown.replace(redact.MASK, "")
    assert not [word for word in re.findall(r"\w{4,}", SECRET) if word in left]
    coded = base64.b64encode(SECRET.encode()).decode()
    assert not [coded[at : at + 6] for at in range(len(coded) - 6) if coded[at : at + 6] in left]


def test_other_words_are_left_alone():
    redact.register(SECRET)
    redact.register("word")
    for text in ("of the coal mine", "d29y", base64.b64encode(b"another text of some length").decode()):
        assert redact.text(text) == text


def test_the_newest_values_of_a_slot_are_masked():
    """A session is renewed for ever, and each value makes each line of the log cost more."""
    redact.register("for-good-and-ever")
    values = [f"session-{number:04d}-x" for number in range(100)]
    for value in values:
        redact.register(value, slot="session")
    masked = [value for value in values if value not in redact.text(f"it is {value}.")]
    assert masked == values[-16:]
    assert "for-good" not in redact.text("it is for-good-and-ever")


def test_secrets_that_hold_one_another_are_masked_whole():
    """Whichever was registered first, and whatever came between."""
    for number in range(50):
        redact.register(f"other-{number:04d}")
    for word in ("abcdef", "xx-abcdef-yy", "xx-abcdef-yy-zz"):
        redact.register(word)
    assert redact.text("1 xx-abcdef-yy-zz 2 abcdef 3") == f"1 {redact.MASK} 2 {redact.MASK} 3"
    assert redact.text("abcdefabcdef other-0007") == f"{redact.MASK}{redact.MASK} {redact.MASK}"


def test_a_thousand_secrets_are_few_layers():
    """As many as an installation has Providers and images: each costs no more than what it takes to tell it apart."""
    words = [f"secret-{number:05d}-{number * 7919}" for number in range(1000)]
    for word in words:
        redact.register(word, slot=word)
    assert len(redact._layers) < 12
    assert sum(len(forms) for forms, _ in redact._layers) >= 1000
    assert not [word for word in words if word in redact.text(f"it is {word}.")]


def test_a_value_that_is_used_again_is_as_new_as_any():
    values = [f"password-{number:04d}-x" for number in range(16)]
    for value in (*values, values[0], "password-9999-x"):
        redact.register(value, slot="file")
    assert values[0] not in redact.text(values[0])
    assert values[1] in redact.text(values[1])


def test_credentials_are_read_and_masked_but_for_what_is_none(tmp_path):
    (tmp_path / "username").write_text("somebody\n")
    (tmp_path / "password").write_text(SECRET + "\r\n")
    (tmp_path / "token").write_text("")
    found = [secrets.find_credential(tmp_path, name) for name in ("username", "password", "token", "ca.crt")]
    assert found == ["somebody", SECRET, None, None]
    assert secrets.find_credential(None, "password") is None
    assert redact.text(f"somebody logs in with {quote(SECRET)}") == f"somebody logs in with {redact.MASK}"
    (tmp_path / "password").write_text("another-one")
    secrets.find_credential(tmp_path, "password")
    assert redact.text(f"{SECRET}, another-one") == f"{redact.MASK}, {redact.MASK}"


def test_a_credential_that_is_no_text_is_refused_without_a_word_of_it(tmp_path):
    (tmp_path / "password").write_bytes(b"c4n4ry\xff\xfe")
    with pytest.raises(CredentialsRefusedError, match=r"credentials: secret file .*/password is no UTF-8 text") as told:
        secrets.find_credential(tmp_path, "password")
    assert "c4n4ry" not in repr(told.value) + repr(told.value.__cause__)
