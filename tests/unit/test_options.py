"""Files named on the command line: JSON objects in UTF-8; what is not a path is not shown."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest
from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.options import read_json_object

if TYPE_CHECKING:
    from pathlib import Path


def test_file_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text('{"api_key": "SG.ä"}', encoding=encoding)
        assert read_json_object("--config", str(path)) == {"api_key": "SG.ä"}


def test_file_may_be_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO('{"a": "ä"}'.encode()), "ascii"))
    assert read_json_object("--state", "-") == {"a": "ä"}


def test_empty_file_can_stand_for_something(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("\n")
    assert read_json_object("--state", str(path), "{}") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b'"SG.very-secret"',
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"api_key": "SG.very-secret',
    ],
    ids=lambda content: ascii(content)[:20],
)
def test_file_that_is_not_a_json_object_is_named_without_its_content(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read_json_object("--config", str(path))
    assert str(raised.value) == f"--config {path}: expected a JSON object"


def test_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"api_key": "\xff"}')
    with pytest.raises(ConfigurationError, match=r"config\.json: not UTF-8"):
        read_json_object("--config", str(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.json: No such file or directory"):
        read_json_object("--config", str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize("option", ["--config", "--state", "--catalog"])
@pytest.mark.parametrize(
    "argument", ['{"api_key": "SG.very-secret"}', "SG.very-secret", "very-secret" * 1000]
)
def test_content_in_place_of_a_path_is_not_shown(option: str, argument: str) -> None:
    with pytest.raises(ConfigurationError, match="takes the path of a file") as raised:
        read_json_object(option, argument)
    assert str(raised.value).startswith(f"{option}: ")
    assert "secret" not in str(raised.value)
