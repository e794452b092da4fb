"""Airbyte's source-sendgrid, with the API at another address; it takes the export as CSV.

Usage: airbyte_source.py API_URL FOLDER, which is for its configuration.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airbyte_cdk.entrypoint import launch  # type: ignore[import-not-found]
from source_sendgrid import SourceSendgrid  # type: ignore[import-not-found]


class LocalSource(SourceSendgrid):  # type: ignore[misc]
    """The connector as it is, but for the address."""

    # Its manifest is looked for beside this module.
    __module__ = SourceSendgrid.__module__

    def _read_and_parse_yaml_file(self, path_to_yaml_file: str) -> Mapping[str, Any]:
        manifest = json.dumps(super()._read_and_parse_yaml_file(path_to_yaml_file))
        moved: Mapping[str, Any] = json.loads(
            manifest.replace("https://api.sendgrid.com", sys.argv[1])
        )
        return moved


def main() -> None:
    """Read the contacts, all of them."""
    folder = Path(sys.argv[2])
    config, catalog = folder / "config.json", folder / "catalog.json"
    config.write_text(json.dumps({"api_key": "none", "start_date": "2009-08-01T00:00:00Z"}))
    stream = {
        "name": "contacts",
        "json_schema": {},
        "supported_sync_modes": ["full_refresh"],
        "source_defined_primary_key": [["contact_id"]],
    }
    configured = {
        "stream": stream,
        "sync_mode": "full_refresh",
        "destination_sync_mode": "overwrite",
    }
    catalog.write_text(json.dumps({"streams": [configured]}))
    launch(LocalSource(), ["read", "--config", str(config), "--catalog", str(catalog)])


if __name__ == "__main__":
    main()
