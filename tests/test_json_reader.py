"""JSON that is not what it should be: one line that names the place."""

import pytest

from autofusion_jax.json_reader import DEEPEST, LARGEST, parse_json, read_json


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "must be JSON; Expecting value: line 1"),
        (b'{"a": 1', "must be JSON; Expecting ',' delimiter"),
        (b'\xef\xbb\xbf{"a": 1}', "must be JSON; Unexpected UTF-8 BOM"),
        (b'{"a": "\xe9"}', "must be JSON in UTF-8; 'utf-8' codec can't decode"),
        ('{"a": 1}'.encode("utf-16"), "must be JSON in UTF-8"),
        (b'{"a": NaN}', "must be JSON; NaN is no number"),
        (b'{"a": -Infinity}', "must be JSON; -Infinity is no number"),
        (b'{"a": 1e999}', "must be JSON; '1e999' is too large"),
        (b'{"a": 1, "a": 2}', "must be JSON; the name 'a' is there twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "must be JSON; Exceeds the limit"),
        (b'{"a": "\\ud800"}', "must be JSON of whole Unicode characters"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "must be JSON nested at most 100 deep"),
        (b"[" * 10**6, "must be JSON nested at most 100 deep"),
        (b" " * (LARGEST + 1), "must be JSON of at most 64 MiB"),
    ],
)
def test_what_is_no_json(tmp_path, raw, message):
    (tmp_path / "data.json").write_bytes(raw)
    with pytest.raises(DamageError, match=f"^read: .*data.json {message}") as caught:
        read_json(tmp_path / "data.json", "read", DamageError)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


class DamageError(ValueError):
    """A type of error of the caller's own."""


def test_no_file(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"read: there is no file {path}"):
            read_json(path, "read")


def test_what_is_read(tmp_path):
    (tmp_path / "data.json").write_text(
        '{"a": [1, "\u00e9\\u00e9", null], "b c": {"d": 2.5}}', encoding="utf-8"
    )
    data = read_json(tmp_path / "data.json", "read").fields("a", "b c")
    number, text, nothing = data["a"].items()
    assert (number.integer(), text.text(), nothing.one_of((None, "x"))) == (1, "\u00e9\u00e9", None)
    assert {name: inner.value for name, inner in data["b c"].mapping().items()} == {"d": 2.5}
    assert parse_json("NaN", "read", finite=False).value != 0
    parse_json("[" * DEEPEST + "]" * DEEPEST, "read")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda data, items: data.items(), "text must be a list; got {'a': "),
        (lambda data, items: data.mapping()["a"].text(), "text: a must be a string; got [1, True, "),
        (lambda data, items: data.fields("a"), "text must be an object of a; got "),
        (lambda data, items: data.fields("a"), "It has 'b\\nc'."),
        (lambda data, items: data.fields("a", "b\nc", "d"), "text must be an object with 'd'; got"),
        (lambda data, items: items[0].integer(least=2), "text: a[0] must be an integer from 2 to"),
        (lambda data, items: items[0].integer(most=0), "text: a[0] must be an integer from 0 to 0; got 1."),
        (lambda data, items: items[1].integer(), "text: a[1] must be an integer from 0 to"),
        (lambda data, items: items[2].integer(), "text: a[2] must be an integer from 0 to"),
        (lambda data, items: items[0].one_of((1.0, "1")), "text: a[0] must be one of 1.0, '1'; got 1."),
        (lambda data, items: data.mapping()["b\nc"].items(), "text: ['b\\nc'] must be a list; got 'xxx"),
    ],
)
def test_what_does_not_fit(check, message):
    data = parse_json('{"a": [1, true, 1.0], "b\\nc": "' + "x" * 1000 + '"}', "read: text")
    with pytest.raises(ValueError, match="^read: text") as caught:
        check(data, data.mapping()["a"].items())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
