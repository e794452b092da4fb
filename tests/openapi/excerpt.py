"""Cut the excerpt of SendGrid's API description from a clone of twilio/sendgrid-oai."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent
# The operations that the tap uses, by file.
OPERATIONS = {
    "tsg_mc_contacts_v3.json": (
        "get /v3/marketing/contacts/count",
        "get /v3/marketing/contacts/exports",
        "post /v3/marketing/contacts/exports",
        "get /v3/marketing/contacts/exports/{id}",
    ),
    "tsg_mc_custom_fields_v3.json": ("get /v3/marketing/field_definitions",),
    "tsg_mc_lists_v3.json": ("get /v3/marketing/lists",),
    "tsg_mc_segments_2.0_v3.json": ("get /v3/marketing/segments/2.0",),
}


def cut(description: dict[str, Any], operations: tuple[str, ...]) -> dict[str, Any]:
    """Return a description with these operations, and the components that they refer to."""
    paths: dict[str, Any] = {}
    for operation in operations:
        method, path = operation.split()
        whole = description["paths"][path]
        kept = {key: whole[key] for key in ("parameters", method) if key in whole}
        paths[path] = paths.get(path, {}) | kept
    components: dict[str, Any] = {
        "securitySchemes": description["components"]["securitySchemes"],
    }
    missing = [*_references(paths)]
    while missing:
        kind, name = missing.pop().removeprefix("#/components/").split("/")
        if name not in components.setdefault(kind, {}):
            components[kind][name] = description["components"][kind][name]
            missing += _references(components[kind][name])
    return {**description, "paths": paths, "components": components}


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _references(each)


if __name__ == "__main__":
    for name, operations in OPERATIONS.items():
        description = json.loads((Path(sys.argv[1]) / name).read_text())
        text = json.dumps(cut(description, operations), indent=1, ensure_ascii=False)
        (FOLDER / name).write_text(text + "\n")
