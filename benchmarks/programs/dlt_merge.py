"""A dlt pipeline: filesystem source to a database, merged on the contact ID.

Usage: dlt_merge.py EXPORT_DIR WORK_DIR DATABASE_URL DATASET OPTIONS

The options are those of `Pipeline.run`, as JSON.
"""

import json
import os
import sys

import dlt  # type: ignore[import-not-found]
from dlt.sources.filesystem import filesystem, read_jsonl  # type: ignore[import-not-found]


def main() -> None:
    """Load the parts of an export into the table `contacts`."""
    export_dir, work_dir, url, dataset, options = sys.argv[1:]
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    # Required, but ignored by the server.
    os.environ["CREDENTIALS__PASSWORD"] = "none"  # noqa: S105
    pipeline = dlt.pipeline(
        "contacts",
        pipelines_dir=work_dir,
        destination=getattr(dlt.destinations, url.partition(":")[0])(url),
        dataset_name=dataset,
    )
    parts = filesystem(bucket_url=export_dir, file_glob="*.gz")
    contacts = (parts | read_jsonl()).with_name("contacts")
    pipeline.run(
        contacts,
        primary_key="contact_id",
        write_disposition="merge",
        **json.loads(options),
    )


if __name__ == "__main__":
    main()
