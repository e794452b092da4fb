"""Command line options: files with JSON objects, `--test` and `--about`."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from singer_sdk.about import TextFormatter
from singer_sdk.exceptions import ConfigurationError
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click import Context, Parameter
    from singer_sdk.about import AboutInfo

# Other paths are not shown: they may be a secret, or the content of a file.
_PLAUSIBLE_PATH = re.compile(r'(?!SG\.)[^\x00-\x1f{}"]{1,255}')

# The SDK copies a state by recursion. A catalog has 8 levels.
_MAX_DEPTH = 100


def read_json_object(option: str, path: str, if_empty: str = "") -> dict[str, Any]:
    """Read a file named on the command line, or standard input if that is `-`.

    It is UTF-8, with or without a byte order mark, whatever the locale; `if_empty` is what an
    empty one stands for.

    Raises:
        ConfigurationError: If it cannot be read or is not a JSON object.
    """
    name = f"{option} {path}" if _PLAUSIBLE_PATH.fullmatch(path) else option
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = content.decode("utf-8-sig").strip()
        value = json.loads(text or if_empty)
    except OSError as error:
        hint = "; it takes the path of a file, not its content" if name == option else ""
        raise ConfigurationError(f"{name}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name}: not UTF-8") from error
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name}: expected a JSON object")
    if _is_deeper(value, _MAX_DEPTH):
        raise ConfigurationError(f"{name}: nested too deeply")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        # No message can be written with it.
        raise ConfigurationError(f"{name}: has half of a surrogate pair") from None
    except ValueError:
        raise ConfigurationError(f"{name}: has a number out of range") from None
    return value


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _open_json(context: Context, option: Parameter, path: str | None) -> IO[str] | None:  # noqa: ARG001 - Click's
    if path is None:
        return None
    # After a first run without any STATE, a script's state file is empty.
    if_empty = "{}" if option.name == "state" else ""
    return io.StringIO(json.dumps(read_json_object(option.opts[0], path, if_empty)))


def adapt_options(options: Iterable[Parameter]) -> None:
    """Adapt the options that the SDK gives every tap."""
    for option in options:
        if not isinstance(option, click.Option):
            continue
        if option.name == "config":
            option.metavar = "FILE"
            option.help = (
                "A file with settings, or ENV for environment variables. Can be repeated: later "
                "files override earlier ones, the environment overrides files."
            )
        elif option.name in {"catalog", "state"}:
            option.type, option.metavar, option.callback = click.STRING, "FILE", _open_json
        elif option.name == "test":
            option.type = click.Choice(["all", "schema", "records", "disabled"])
            option.metavar = "[all|schema|records]"
            option.help = (
                "Show the account and check the settings; starts no export. --test=schema: write "
                "the SCHEMA message; starts no export. --test=records: start an export, and stop "
                "after the first record."
            )


class SettingsFormatter(TextFormatter, format_name="text"):
    """The output of `--about`: the SDK's, with what it leaves out of each setting."""

    @override
    def format_about(self, about_info: AboutInfo) -> str:
        text = super().format_about(about_info)
        for name, schema in about_info.settings["properties"].items():
            more = f"    Description: {schema['description']}\n"
            if "default" in schema:
                more += f"    Default: {json.dumps(schema['default'])}\n"
            text = text.replace(f"  - Name: {name}\n", f"  - Name: {name}\n{more}")
        return text
