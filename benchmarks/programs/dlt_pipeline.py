"""The export's files through dlt: its filesystem source, into its filesystem as JSON lines.

Usage: dlt_pipeline.py FOLDER TO
"""

import os
import sys

import dlt  # type: ignore[import-not-found]
from dlt.destinations import filesystem as files  # type: ignore[import-not-found]
from dlt.sources.filesystem import filesystem, read_jsonl  # type: ignore[import-not-found]


def main() -> None:
    """Load an export's folder into another folder."""
    folder, to = sys.argv[1:]
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION"] = "true"
    pipeline = dlt.pipeline("contacts", pipelines_dir=f"{to}/work", destination=files(to))
    parts = filesystem(bucket_url=folder, file_glob="*.gz")
    contacts = (parts | read_jsonl()).with_name("contacts")
    pipeline.run(contacts, loader_file_format="jsonl")


if __name__ == "__main__":
    main()
