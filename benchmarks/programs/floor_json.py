"""The floor for JSON: gunzip, decode to dicts, encode as RECORD lines; no types, no HTTP.

Usage: floor_json.py blocks|lines PART…
"""

import sys
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
from isal.igzip import GzipFile

_BLOCK_BYTES = 64 * 1024


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(_BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        yield rest + chunk[:cut]
        rest = chunk[cut:]
    yield rest


def main() -> None:
    """Convert the parts that the command line names."""
    reader, *parts = sys.argv[1:]
    decode, encode = msgspec.json.Decoder(), msgspec.json.Encoder()
    out = sys.stdout.buffer
    for part in parts:
        with GzipFile(part) as stream:
            if reader == "lines":
                for line in stream:
                    record = decode.decode(line)
                    out.write(
                        encode.encode({"type": "RECORD", "stream": "contacts", "record": record})
                    )
                    out.write(b"\n")
                continue
            for block in _blocks(stream):
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
