"""A minimal script: requests, gzip, and json or csv, one contact at a time.

Usage: plain_script.py API_URL json|csv
"""

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from typing import Any

import requests


def _iter_contacts(url: str, file_type: str) -> Iterator[dict[str, Any]]:
    with (
        requests.get(url, stream=True, timeout=300) as response,
        gzip.open(response.raw, "rt", encoding="utf-8", newline="") as lines,
    ):
        yield from csv.DictReader(lines) if file_type == "csv" else map(json.loads, lines)


def main() -> None:
    """Write the contacts of an export as RECORD messages."""
    api_url, file_type = sys.argv[1:]
    exports_url = f"{api_url}/v3/marketing/contacts/exports"
    export = requests.post(exports_url, json={"file_type": file_type}, timeout=300).json()
    status = requests.get(f"{exports_url}/{export['id']}", timeout=300).json()
    for url in status["urls"]:
        for contact in _iter_contacts(url, file_type):
            record = {"type": "RECORD", "stream": "contacts", "record": contact}
            sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
