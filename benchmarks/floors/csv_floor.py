"""CSV floor: gunzip, parse rows, encode RECORD messages; no typing, no HTTP.

Usage: csv_floor.py PART…
"""

import csv
import io
import sys
from itertools import islice

import msgspec
from isal.igzip import GzipFile

_BLOCK_ROWS = 128


def main() -> None:
    """Convert the part files given on the command line."""
    encode = msgspec.json.Encoder()
    out = sys.stdout.buffer
    for part in sys.argv[1:]:
        with GzipFile(part) as stream:
            rows = csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""))
            names = next(rows)
            while block := list(islice(rows, _BLOCK_ROWS)):
                out.write(
                    encode.encode_lines(
                        [
                            {
                                "type": "RECORD",
                                "stream": "contacts",
                                "record": dict(zip(names, row)),  # noqa: B905 - the floor omits all checks
                            }
                            for row in block
                        ]
                    )
                )


if __name__ == "__main__":
    main()
