"""Airbyte's source-sendgrid with the API URL replaced; it requests the export as CSV.

Usage: airbyte_source.py API_URL CONFIG_DIR
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airbyte_cdk.entrypoint import launch  # type: ignore[import-not-found]
from source_sendgrid import SourceSendgrid  # type: ignore[import-not-found]


class LocalSource(SourceSendgrid):  # type: ignore[misc]
    """The unmodified connector, except for the API URL in its manifest."""

    # The CDK looks up the manifest next to the module of the class.
    __module__ = SourceSendgrid.__module__

    def _read_and_parse_yaml_file(self, path_to_yaml_file: str) -> Mapping[str, Any]:
        manifest = json.dumps(super()._read_and_parse_yaml_file(path_to_yaml_file))
        patched: Mapping[str, Any] = json.loads(
            manifest.replace("https://api.sendgrid.com", sys.argv[1])
        )
        return patched


def main() -> None:
    """Run a full refresh of the contacts stream."""
    config_dir = Path(sys.argv[2])
    config_file, catalog_file = config_dir / "config.json", config_dir / "catalog.json"
    config_file.write_text(json.dumps({"api_key": "none", "start_date": "2009-08-01T00:00:00Z"}))
    stream = {
        "name": "contacts",
        "json_schema": {},
        "supported_sync_modes": ["full_refresh"],
        "source_defined_primary_key": [["contact_id"]],
    }
    configured_stream = {
        "stream": stream,
        "sync_mode": "full_refresh",
        "destination_sync_mode": "overwrite",
    }
    catalog_file.write_text(json.dumps({"streams": [configured_stream]}))
    launch(LocalSource(), ["read", "--config", str(config_file), "--catalog", str(catalog_file)])


if __name__ == "__main__":
    main()
