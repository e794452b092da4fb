"""Singer targets, each in a virtual environment of its own, and what they ought to hold."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import pytest
from typing_extensions import override

from tests.expected import expected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tap_sendgrid_contacts.sandbox.account import Account

Kind = Literal["string", "number", "date", "array"]
Value = str | Decimal | list[str] | None
Row = dict[str, Any]
"""A contact as its record, but numbers are Decimal."""

# Among them: names that are long, that are the same up to the 63rd character, and that a
# careless prefix makes the same as a reserved one. Day 2 brings one more.
CUSTOM_FIELDS = 16

MELTANO = "meltano==4.4.1"
SINGER_TOOLS = "singer-tools==0.4.1"
TARGET_STITCH = "target-stitch==4.0.3"

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
# duckdb 1.0.0 has no wheels for later ones.
_PYTHON = ">=3.10,<3.13"


def missing(what: str) -> NoReturn:
    """Skip the test where something is not installed; on CI it has to be."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def uv(*arguments: str | Path) -> None:
    """Run uv, the one that runs the tests if one does."""
    program = os.environ.get("UV") or shutil.which("uv") or missing("uv is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    # Not `check=True`, whose error would not show what uv said.
    assert done.returncode == 0, done.stderr


def installed(*requirements: str) -> Path:
    """The `bin` folder of a virtual environment with these packages, made once for all runs."""
    asked = json.dumps([*requirements, platform.machine(), _PYTHON])
    name = re.sub(r"\W.*", "", requirements[0].replace("-", "_"))
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    folder = _CACHE / "tap-sendgrid-contacts-tests" / f"{name}-{digest}"
    complete = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Tests may run side by side.
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            uv("venv", "--quiet", "--clear", "--python", _PYTHON, folder)
            install = ("pip", "install", "--quiet", "--compile-bytecode", "--python", folder)
            uv(*install, *requirements)
            complete.touch()
    return folder / "bin"


def feed(command: list[str | Path], messages: bytes, folder: Path | None = None) -> str:
    """Run a command that reads messages; give back its standard output."""
    done = subprocess.run(
        command, input=messages, capture_output=True, check=False, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout.decode()


# --- what ought to arrive -------------------------------------------------------------------


def kinds(schema: dict[str, Any]) -> dict[str, Kind]:
    """The kind of each column."""
    return {
        name: "date" if definition.get("format") == "date-time" else definition["type"][0]
        for name, definition in schema["properties"].items()
    }


def rows_of(account: Account, schema: dict[str, Any]) -> dict[str, Row]:
    """The contacts by id, as a warehouse should hold them."""
    return {
        key: {
            name: Decimal(repr(value)) if isinstance(value, (int, float)) else value
            for name, value in record.items()
        }
        for key, record in expected(account, schema).items()
    }


# --- targets --------------------------------------------------------------------------------


class Target(ABC):
    """A target with a place to load into."""

    requirements: ClassVar[tuple[str, ...]]
    command: ClassVar[str]

    def __init__(self, folder: Path, **config: Any) -> None:
        self._folder = folder
        self._bin = installed(*self.requirements)
        self._config = folder / "target.json"
        self._config.write_text(json.dumps(self.config | config))

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The least that the target needs to be told."""

    @property
    def env(self) -> dict[str, str]:
        """The same as Meltano takes it from the environment."""
        prefix = self.command.upper().replace("-", "_")
        return {f"{prefix}_{name.upper()}": str(value) for name, value in self.config.items()}

    def load(self, messages: bytes) -> dict[str, Any]:
        """Load messages; give back the last state that the target keeps."""
        out = feed([self._bin / self.command, "--config", self._config], messages)
        state: dict[str, Any] = json.loads(out.splitlines()[-1])
        return state

    def rows(self, kinds: Mapping[str, Kind]) -> dict[str, Row]:
        """The contacts by id, as they stand there."""
        rows: list[Row] = [
            {name: self.read(row[name], kind) for name, kind in kinds.items()}
            for row in self.raw_rows()
        ]
        by_id = {row["contact_id"]: row for row in rows}
        assert len(by_id) == len(rows), "a contact is there more than once"
        return by_id

    @abstractmethod
    def raw_rows(self) -> list[Row]:
        """The rows as JSON has them."""

    def read(self, value: Value, kind: Kind) -> Value:
        """Read a value back from how the target stores it."""
        if not isinstance(value, str) or kind != "date":
            return value
        moment = re.fullmatch(r"(.{10})[T ](.{8})(Z|\+00:00)?", value)
        assert moment, value
        return f"{moment[1]}T{moment[2]}Z"

    def holds(self, value: Value) -> Value:
        """What the target makes of a value: the same, but for flaws of its own."""
        return value


def _json_rows(lines: str) -> list[Any]:
    return [
        json.loads(line, parse_int=Decimal, parse_float=Decimal)
        for line in lines.split("\n")
        if line
    ]


class Jsonl(Target):
    requirements = ("target-jsonl==0.1.4",)
    command = "target-jsonl"

    @property
    @override
    def config(self) -> dict[str, Any]:
        return {"destination_path": str(self._folder)}

    @override
    def raw_rows(self) -> list[Row]:
        (file,) = self._folder.glob("contacts-*.jsonl")
        return _json_rows(file.read_text())


class Csv(Target):
    requirements = ("meltanolabs-target-csv==0.5.0",)
    command = "target-csv"

    @property
    @override
    def config(self) -> dict[str, Any]:
        return {"output_path": str(self._folder)}

    @override
    def raw_rows(self) -> list[Row]:
        csv.field_size_limit(2**24)
        with (self._folder / "contacts.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @override
    def read(self, value: Value, kind: Kind) -> Value:
        if not isinstance(value, str) or not value:
            return None
        if kind == "number":
            return Decimal(value)
        # It writes lists as Python does.
        return json.loads(value.replace("'", '"')) if kind == "array" else super().read(value, kind)


class Database(Target):
    """A target that SQL can look into."""

    types: ClassVar[dict[Kind, str]]
    """What the database calls the types of its columns."""

    @property
    @abstractmethod
    def schema(self) -> str:
        """Where the table is."""

    @abstractmethod
    def query(self, sql: str) -> list[Any]:
        """Ask for one column of JSON."""

    @override
    def raw_rows(self) -> list[Row]:
        return self.query(f"SELECT to_json(c) FROM {self.schema}.contacts c")  # noqa: S608

    def columns(self) -> dict[str, str]:
        """The type of each column that is not the target's own."""
        rows = self.query(
            "SELECT to_json(c) FROM (SELECT column_name, data_type FROM "  # noqa: S608
            f"information_schema.columns WHERE table_schema = '{self.schema}') c"
        )
        return {
            row["column_name"]: row["data_type"]
            for row in rows
            if not row["column_name"].startswith("_sdc_")
        }


class DuckDb(Database):
    # Every newer duckdb loses the first row of each batch of this target.
    requirements = ("target-duckdb==0.8.0", "duckdb==1.0.0")
    command = "target-duckdb"
    types: ClassVar = {
        "string": "VARCHAR",
        "number": "DOUBLE",
        "date": "TIMESTAMP",
        "array": "JSON",
    }

    @property
    @override
    def config(self) -> dict[str, Any]:
        return {
            "filepath": str(self._folder / "contacts.duckdb"),
            "default_target_schema": self.schema,
        }

    @property
    @override
    def schema(self) -> str:
        return "main"

    @override
    def holds(self, value: Value) -> Value:
        # It makes numbers DOUBLE, with 53 bits.
        return Decimal(repr(float(value))) if isinstance(value, Decimal) else value

    @override
    def read(self, value: Value, kind: Kind) -> Value:
        return self.holds(super().read(value, kind))

    @override
    def query(self, sql: str) -> list[Any]:
        script = (
            "import duckdb, sys; db = duckdb.connect(sys.argv[1], read_only=True)\n"
            "print('\\n'.join(row[0] for row in db.execute(sys.argv[2]).fetchall()))"
        )
        file = self.config["filepath"]
        return _json_rows(feed([self._bin / "python", "-c", script, file, sql], b""))


class Postgres(Database):
    requirements = ("meltanolabs-target-postgres==0.8.1",)
    command = "target-postgres"
    types: ClassVar = {
        "string": "text",
        "number": "numeric",
        "date": "timestamp without time zone",
        "array": "ARRAY",
    }

    def __init__(self, folder: Path, server: Server, **config: Any) -> None:
        self._server = server
        super().__init__(folder, **config)

    @property
    @override
    def config(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self._server.port,
            "user": "postgres",
            "password": "",
            "database": "postgres",
            "default_target_schema": self.schema,
        }

    @property
    @override
    def schema(self) -> str:
        # One for each folder, so that tests share the server alone.
        return re.sub(r"\W", "_", self._folder.name).lower()

    @override
    def query(self, sql: str) -> list[Any]:
        return self._server.query(sql)


class Server:
    """A PostgreSQL server on this machine, with one user who needs no password."""

    def __init__(self, programs: Path, port: int) -> None:
        self._programs = programs
        self.port = port

    def query(self, sql: str) -> list[Any]:
        """Ask for one column of JSON."""
        # A plain SELECT would lose U+10FFFF, which psql does not print. JSON has no such
        # control characters, so nothing is quoted.
        copy = f"COPY ({sql}) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
        address = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"
        connect = ["--no-psqlrc", f"{address} client_encoding=UTF8"]
        return _json_rows(feed([self._programs / "psql", *connect, "--command", copy], b""))


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Run a server that leaves nothing behind."""
    # Debian keeps them off the PATH.
    initdb = shutil.which("initdb") or max(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None
    )
    programs = Path(initdb or missing("PostgreSQL is not installed")).resolve().parent
    with socket.socket() as free, tempfile.TemporaryDirectory() as name:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        # The server refuses to run as root.
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(name, nobody.pw_uid, nobody.pw_gid)
        folder = Path(name)
        log = folder / "log"

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), f"--pgdata={folder}/data", *arguments]
            with log.open("ab") as out:
                done = subprocess.run(
                    command, check=False, cwd=folder, stdout=out, stderr=out, **as_user
                )
            assert done.returncode == 0, log.read_text()

        run("initdb", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -F"
        free.close()
        run("pg_ctl", "--wait", "--options", options, "start")
        try:
            yield Server(programs, port)
        finally:
            run("pg_ctl", "--wait", "--mode=immediate", "stop")
