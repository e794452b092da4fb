"""JSON floor: gunzip, decode to dicts, encode RECORD messages; no typing, no HTTP.

Usage: json_floor.py PART…
"""

import sys

import msgspec
from isal.igzip import GzipFile

_BLOCK_BYTES = 64 * 1024


def main() -> None:
    """Convert the part files given on the command line."""
    decode, encode = msgspec.json.Decoder(), msgspec.json.Encoder()
    for part in sys.argv[1:]:
        with GzipFile(part) as stream:
            remainder = b""
            while chunk := stream.read(_BLOCK_BYTES):
                end = chunk.rfind(b"\n") + 1
                records = decode.decode_lines(remainder + chunk[:end])
                remainder = chunk[end:]
                sys.stdout.buffer.write(
                    encode.encode_lines(
                        [
                            {"type": "RECORD", "stream": "contacts", "record": record}
                            for record in records
                        ]
                    )
                )


if __name__ == "__main__":
    main()
