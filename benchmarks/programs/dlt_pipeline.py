"""A dlt pipeline: filesystem source to filesystem destination, as JSON Lines.

Usage: dlt_pipeline.py EXPORT_DIR OUTPUT_DIR
"""

import os
import sys

import dlt  # type: ignore[import-not-found]
from dlt.destinations import filesystem as filesystem_destination  # type: ignore[import-not-found]
from dlt.sources.filesystem import filesystem, read_jsonl  # type: ignore[import-not-found]


def main() -> None:
    """Load the parts of an export into the output directory."""
    export_dir, output_dir = sys.argv[1:]
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION"] = "true"
    pipeline = dlt.pipeline(
        "contacts",
        pipelines_dir=f"{output_dir}/work",
        destination=filesystem_destination(output_dir),
    )
    parts = filesystem(bucket_url=export_dir, file_glob="*.gz")
    contacts = (parts | read_jsonl()).with_name("contacts")
    pipeline.run(contacts, loader_file_format="jsonl")


if __name__ == "__main__":
    main()
