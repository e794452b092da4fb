"""Check stream maps before an export: the SDK finds most mistakes with the first record.

No message contains an expression, which may contain a secret.
"""

from __future__ import annotations

import ast
import datetime as dt
import difflib
import json
from decimal import Decimal
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from singer_sdk.mapper import CustomStreamMap, RemoveRecordTransform, SameRecordTransform

from tap_sendgrid_contacts.columns import STREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from singer_sdk.mapper import StreamMap

_REMOVED = (None, "__NULL__")
# Options of a stream that are not expressions: what is valid, in words.
_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "__alias__": (lambda value: isinstance(value, str), "a string"),
    "__else__": (lambda value: value in _REMOVED, "null or __NULL__"),
    "__key_properties__": (
        lambda value: (
            value is None
            or (isinstance(value, list) and all(isinstance(each, str) for each in value))
        ),
        "an array of strings or null",
    ),
    "__source__": (lambda value: isinstance(value, str), "a string"),
}
_RECORD_NAMES = ("record", "_")

# What a value in an expression can be.
_TYPES: tuple[Any, ...] = (
    *(str, bytes, int, float, bool, Decimal, list, tuple, set, dict),
    *(dt.datetime, dt.date, dt.time, dt.timedelta, dt, json),
)
# The evaluator refuses private attributes, and these methods.
_ATTRIBUTES = {name for each in _TYPES for name in dir(each) if not name.startswith("_")} - {
    "format",
    "format_map",
    "mro",
}


def removes_stream(mappers: Sequence[StreamMap]) -> bool:
    """Return whether no contact is emitted."""
    return all(isinstance(each, RemoveRecordTransform) for each in mappers)


def changes_nothing(mappers: Sequence[StreamMap]) -> bool:
    """Return whether a contact is the record: no maps, no filter, no flattening."""
    return (
        len(mappers) == 1
        and type(mappers[0]) is SameRecordTransform
        and not mappers[0].flattening_enabled
    )


def find_malformed(stream_maps: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each part of the setting that the SDK could not read."""
    for stream, rules in stream_maps.items():
        setting = f"stream_maps.{_printable(stream)}"
        if stream.startswith("__"):
            if stream != "__else__" or rules not in _REMOVED:
                yield f"{setting}: the only option here is __else__, null or __NULL__"
            continue
        source: object = stream
        if isinstance(rules, dict):
            for key, value in rules.items():
                if problem := _find_problem_of_rule(key, value):
                    yield f"{setting}.{_printable(key)} {problem}"
            source = rules.get("__source__", stream)
        elif rules not in _REMOVED:
            yield f"{setting} must be an object, null or __NULL__"
        if isinstance(source, str) and not fnmatch(STREAM, source):
            # The SDK would ignore it, and emit what it is meant to hide.
            yield f"stream_maps references unknown stream '{_printable(source)}'"


def _find_problem_of_rule(key: str, value: object) -> str | None:
    if key in _OPTIONS:
        is_valid, expected = _OPTIONS[key]
        return None if is_valid(value) else f"must be {expected}"
    if value is None or (value == "__NULL__" and key != "__filter__"):
        return None
    if not isinstance(value, str):
        return "must be an expression, null or __NULL__"
    try:
        _parse(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        offset = getattr(error, "offset", None)
        place = f" at character {offset}" if offset else ""
        return f"is not a valid expression{place}"
    return None


def find_mistakes(
    stream_maps: Mapping[str, Any], columns: Collection[str], mappers: Sequence[StreamMap]
) -> Iterator[str]:
    """Yield an error for each name in an expression that no contact has, and for such an alias.

    The expressions in the setting parse; `mappers` are what the SDK has made of it.
    """
    aliases: list[object] = [each.stream_alias for each in mappers]
    if not all(isinstance(alias, str) and alias for alias in aliases):
        yield "stream_maps: __alias__ is not a name"
    mapper = next((each for each in mappers if isinstance(each, CustomStreamMap)), None)
    if mapper is None:
        return
    supported = mapper.expr_evaluator.nodes
    names = {*columns, *mapper.functions, *_RECORD_NAMES, "config"}
    names |= {"__stream_name__", "__original_stream_name__"}
    if mapper.fake:
        names.add("fake")
    keys: dict[str, Collection[str]] = dict.fromkeys(_RECORD_NAMES, columns) | {
        "config": mapper.map_config
    }
    for setting, column, expression in _expressions(stream_maps):
        tree = _parse(expression)
        local = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        visible = names | local | ({"self"} if column in columns else set())
        for node in ast.walk(tree):
            if problem := _find_problem(node, visible, keys, supported):
                yield f"{setting}: {problem}"
                break


def _find_problem(
    node: ast.AST,
    names: Collection[str],
    keys: Mapping[str, Collection[str]],
    supported: Collection[type[ast.AST]],
) -> str | None:
    """Return what is wrong with one node of an expression.

    Args:
        node: The node.
        names: Names that can be used.
        keys: Keys of the names that stand for objects.
        supported: Types of nodes that the SDK evaluates.
    """
    if isinstance(node, ast.expr) and type(node) not in supported:
        return f"{type(node).__name__} is not supported in expressions"
    if isinstance(node, ast.Name) and node.id not in names:
        return f"unknown name {_show(node.id, names)}"
    if isinstance(node, ast.Attribute) and "fake" not in names and node.attr not in _ATTRIBUTES:
        return f"unknown attribute {_show(node.attr, _ATTRIBUTES)}"
    match node:
        case ast.Subscript(ast.Name(id=name), ast.Constant(value=str(key))) if name in keys:
            if key not in keys[name]:
                return f"unknown key of {name}: {_show(key, keys[name])}"
    return None


def _show(name: str, known: Collection[str]) -> str:
    closest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{closest[0]}'?" if closest else ""
    return f"'{_printable(name)}'{hint}"


def _printable(name: str) -> str:
    return ascii(name)[1:-1][:63]


def _expressions(stream_maps: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield setting, column and expression."""
    for stream, rules in stream_maps.items():
        for column, value in rules.items() if isinstance(rules, dict) else ():
            if column not in _OPTIONS and value not in _REMOVED:
                yield f"stream_maps.{_printable(stream)}.{_printable(column)}", column, value


def _parse(expression: str) -> ast.expr:
    """Parse one expression, as the SDK does: it ignores what follows it.

    Raises:
        SyntaxError: If it does not parse.
        ValueError: If it is none, or more than one.
    """
    match ast.parse(expression).body:
        case [ast.Expr(value=value)]:
            return value
    raise ValueError
