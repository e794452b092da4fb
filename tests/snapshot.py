"""The catalog of a sandbox's account, a line per column: `python -m tests.snapshot` renews it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.harness import Tap, run_sandbox

FILE = Path(__file__).with_name("catalog.jsonl")
# As many fields as it takes for every awkward name.
OPTIONS = ("--contacts", "5", "--custom-fields", "17")


def render(catalog: dict[str, Any]) -> str:
    """Return a catalog as lines of JSON."""
    (stream,) = catalog["streams"]
    schema, metadata = stream.pop("schema"), stream.pop("metadata")
    columns = schema.pop("properties")
    rows = [
        {"stream": stream, "schema": schema},
        *({"column": name, **definition} for name, definition in columns.items()),
        *({"breadcrumb": each["breadcrumb"], **each["metadata"]} for each in metadata),
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    with run_sandbox(*OPTIONS) as sandbox, tempfile.TemporaryDirectory() as folder:
        FILE.write_text(render(Tap(Path(folder)).discover(sandbox)), encoding="utf-8")
