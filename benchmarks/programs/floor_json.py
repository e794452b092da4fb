"""JSON floor: gunzip, decode to dicts, encode RECORD messages; no typing, no HTTP.

Usage: floor_json.py blocks|lines PART…
"""

import sys
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
from isal.igzip import GzipFile

_BLOCK_BYTES = 64 * 1024


def _iter_line_blocks(stream: BinaryIO) -> Iterator[bytes]:
    remainder = b""
    while chunk := stream.read(_BLOCK_BYTES):
        end = chunk.rfind(b"\n") + 1
        yield remainder + chunk[:end]
        remainder = chunk[end:]
    yield remainder


def main() -> None:
    """Convert the part files given on the command line."""
    unit, *parts = sys.argv[1:]
    decode, encode = msgspec.json.Decoder(), msgspec.json.Encoder()
    out = sys.stdout.buffer
    for part in parts:
        with GzipFile(part) as stream:
            if unit == "lines":
                for line in stream:
                    record = decode.decode(line)
                    out.write(
                        encode.encode({"type": "RECORD", "stream": "contacts", "record": record})
                    )
                    out.write(b"\n")
                continue
            for block in _iter_line_blocks(stream):
                out.write(
                    encode.encode_lines(
                        [
                            {"type": "RECORD", "stream": "contacts", "record": record}
                            for record in decode.decode_lines(block)
                        ]
                    )
                )


if __name__ == "__main__":
    main()
