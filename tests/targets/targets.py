"""Singer targets, each in a virtual environment of its own, and the rows they should hold."""

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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar

import pytest
from typing_extensions import override

from tests.expected import expected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sendgrid_sandbox.account import Account

ColumnType = Literal["string", "number", "date", "array"]
Value = str | Decimal | list[str] | None
Row = dict[str, Any]
"""A contact as its record, but numbers are Decimal."""
Key = TypeVar("Key")

ROOT = Path(__file__).parent.parent.parent

# Among them: names that are long, that are equal up to the 63rd character, and that become equal
# to a reserved one with a careless prefix. Day 2 adds one more.
CUSTOM_FIELDS = 16

MELTANO = "meltano==4.4.1"
SINGER_TOOLS = "singer-tools==0.4.1"
TARGET_STITCH = "target-stitch==4.0.3"

# Later versions of DuckDB than that of its target.
LOADER_REQUIREMENTS = ("adbc-driver-postgresql==1.13.0", "duckdb==2.0.1", "pyarrow==26.0.1")
LOADER = ROOT / "examples" / "load_batches.py"

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
# duckdb 1.0.0 has no wheels for later ones, and fakesnow requires 3.11.
_PYTHON = ">=3.11,<3.13"


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test because something is not installed; on CI it must be, so fail there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def uv(*arguments: str | Path) -> None:
    """Run uv: the one that runs the tests, one on the PATH, or the one of the checkout."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{ROOT / '.uv' / 'bin'}"
    program = (
        os.environ.get("UV") or shutil.which("uv", path=path) or skip_or_fail("uv is not installed")
    )
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    # Not `check=True`, whose error would not show uv's output.
    assert done.returncode == 0, done.stderr


def tool_venv(*requirements: str) -> Path:
    """Return the `bin` folder of a virtual environment with these packages, made only once."""
    key = json.dumps([*requirements, platform.machine(), _PYTHON])
    name = re.sub(r"\W.*", "", requirements[0].replace("-", "_"))
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    folder = _CACHE / "tap-sendgrid-contacts-tests" / f"{name}-{digest}"
    complete = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Tests may run in parallel.
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            uv("venv", "--quiet", "--clear", "--python", _PYTHON, folder)
            install = ("pip", "install", "--quiet", "--compile-bytecode", "--python", folder)
            uv(*install, *requirements)
            complete.touch()
    return folder / "bin"


def pipe_to(command: list[str | Path], messages: bytes, folder: Path | None = None) -> str:
    """Pipe messages to a command; return its standard output."""
    done = subprocess.run(
        command, input=messages, capture_output=True, check=False, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout.decode()


# --- expected rows --------------------------------------------------------------------------


def column_types(schema: dict[str, Any]) -> dict[str, ColumnType]:
    """Return the type of each column."""
    return {
        name: "date" if definition.get("format") == "date-time" else definition["type"][0]
        for name, definition in schema["properties"].items()
    }


def expected_rows(
    account: Account,
    schema: dict[str, Any],
    list_ids: Sequence[str] = (),
    segment_ids: Sequence[str] = (),
) -> dict[str, Row]:
    """Return the contacts by id, as a target should hold them."""
    return {
        key: {
            name: Decimal(repr(value)) if isinstance(value, (int, float)) else value
            for name, value in record.items()
        }
        for key, record in expected(account, schema, list_ids, segment_ids).items()
    }


# --- targets --------------------------------------------------------------------------------


class Target(ABC):
    """A target, and a place to load into."""

    requirements: ClassVar[tuple[str, ...]]
    command: ClassVar[str]

    def __init__(self, folder: Path, **config: Any) -> None:
        self._folder = folder
        self._bin = tool_venv(*self.requirements)
        self._options = config

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The settings that the target requires."""

    @property
    def env(self) -> dict[str, str]:
        """The same settings as Meltano reads them from the environment."""
        prefix = self.command.upper().replace("-", "_")
        return {f"{prefix}_{name.upper()}": str(value) for name, value in self.config.items()}

    @property
    def program(self) -> list[str | Path]:
        """The command without its options."""
        return [self._bin / self.command]

    def command_line(self) -> list[str | Path]:
        """Return the command that loads the messages on its standard input."""
        file = self._folder / f"{self.command}.json"
        file.write_text(json.dumps(self._options | self.config))
        return [*self.program, "--config", file]

    def load(self, messages: bytes) -> dict[str, Any]:
        """Load messages; return the last state that the target emits."""
        out = pipe_to(self.command_line(), messages)
        state: dict[str, Any] = json.loads(out.splitlines()[-1])
        return state

    def rows(self, columns: Mapping[str, ColumnType]) -> dict[str, Row]:
        """Return the loaded contacts by id."""
        rows = self.parsed_rows(columns)
        by_id = {row["contact_id"]: row for row in rows}
        assert len(by_id) == len(rows), "duplicate contact_id"
        return by_id

    def parsed_rows(self, columns: Mapping[str, ColumnType]) -> list[Row]:
        """Return the loaded rows."""
        return [
            {name: self.parse(row[name], column_type) for name, column_type in columns.items()}
            for row in self.raw_rows()
        ]

    @abstractmethod
    def raw_rows(self) -> list[Row]:
        """Return the rows as the target has them in JSON."""

    def parse(self, value: Value, column_type: ColumnType) -> Value:
        """Convert a value from the target's own notation."""
        if not isinstance(value, str) or column_type != "date":
            return value
        moment = re.fullmatch(r"(.{10})[T ](.{8})(Z|\+00(:00)?)?", value)
        assert moment, value
        return f"{moment[1]}T{moment[2]}Z"

    def stored(self, value: Value) -> Value:
        """Return what the target stores for a value: the value, except for its known flaws."""
        return value


def stored_rows(
    target: Target, rows: Mapping[Key, Row], columns: Mapping[str, ColumnType]
) -> dict[Key, Row]:
    """Return what a target stores for rows; columns that a row does not have are null."""
    return {
        key: {name: target.stored(row.get(name)) for name in columns} for key, row in rows.items()
    }


def round_to_double(value: Value) -> Value:
    """Return a value as DOUBLE columns and columnar files have it: numbers have 53 bits."""
    return Decimal(repr(float(value))) if isinstance(value, Decimal) else value


def _parse_lines(lines: str) -> list[Any]:
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
        return _parse_lines(file.read_text())


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
    def parse(self, value: Value, column_type: ColumnType) -> Value:
        if not isinstance(value, str) or not value:
            return None
        if column_type == "number":
            return Decimal(value)
        if column_type == "array":
            # It writes lists in Python's notation.
            items: list[str] = json.loads(value.replace("'", '"'))
            return items
        return super().parse(value, column_type)


class Database(Target):
    """A target that can be queried with SQL."""

    types: ClassVar[dict[ColumnType, str]]
    """The database's own names of the types."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address of the database."""

    @property
    @abstractmethod
    def schema(self) -> str:
        """The schema of the table."""

    @abstractmethod
    def query(self, sql: str) -> list[Any]:
        """Return the results of a query for one column of JSON."""

    @override
    def raw_rows(self) -> list[Row]:
        return self.query(f"SELECT to_json(c) FROM {self.schema}.contacts c")  # noqa: S608

    def columns(self) -> dict[str, str]:
        """Return the type of each column that the target did not add."""
        rows = self.query(
            "SELECT to_json(c) FROM (SELECT column_name, data_type FROM "  # noqa: S608
            f"information_schema.columns WHERE table_schema = '{self.schema}') c"
        )
        return {
            row["column_name"]: row["data_type"]
            for row in rows
            if not row["column_name"].lower().startswith("_sdc_")
        }


class DuckDb(Database):
    # With any newer duckdb, this target loses the first row of each batch.
    requirements: ClassVar[tuple[str, ...]] = ("target-duckdb==0.8.0", "duckdb==1.0.0")
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
            "filepath": str(self.file),
            "default_target_schema": self.schema,
        }

    @property
    def file(self) -> Path:
        """The database."""
        return self._folder / "contacts.duckdb"

    @property
    @override
    def url(self) -> str:
        return f"duckdb:///{self.config['filepath']}"

    @property
    @override
    def schema(self) -> str:
        return "main"

    @override
    def stored(self, value: Value) -> Value:
        return round_to_double(value)

    @override
    def parse(self, value: Value, column_type: ColumnType) -> Value:
        return self.stored(super().parse(value, column_type))

    @override
    def query(self, sql: str) -> list[Any]:
        script = (
            "import duckdb, sys; db = duckdb.connect(sys.argv[1], read_only=True)\n"
            "db.execute(\"SET TimeZone = 'UTC'\")\n"
            "print('\\n'.join(row[0] for row in db.execute(sys.argv[2]).fetchall()))"
        )
        return _parse_lines(pipe_to([self._bin / "python", "-c", script, self.file, sql], b""))


class Snowflake(DuckDb):
    """target-snowflake on fakesnow, which keeps the tables of Snowflake in DuckDB files."""

    requirements = ("meltanolabs-target-snowflake==0.20.4", "fakesnow==0.12.1")
    command = "target-snowflake"

    @property
    @override
    def program(self) -> list[str | Path]:
        return [self._bin / "python", Path(__file__).parent / "fake_snowflake.py", self._folder]

    @property
    @override
    def file(self) -> Path:
        return self._folder / "CONTACTS.db"

    @property
    @override
    def config(self) -> dict[str, Any]:
        account = {"account": "none", "user": "contacts", "password": "none"}
        return account | {"database": "CONTACTS", "default_target_schema": self.schema}

    @property
    @override
    def schema(self) -> str:
        return "PUBLIC"

    @override
    def raw_rows(self) -> list[Row]:
        return [{name.lower(): row[name] for name in row} for row in super().raw_rows()]

    @override
    def columns(self) -> dict[str, str]:
        return {name.lower(): each for name, each in super().columns().items()}


class Postgres(Database):
    requirements: ClassVar[tuple[str, ...]] = ("meltanolabs-target-postgres==0.8.1",)
    command = "target-postgres"
    types: ClassVar = {
        "string": "text",
        "number": "numeric",
        "date": "timestamp without time zone",
        "array": "ARRAY",
    }

    def __init__(self, folder: Path, server: PostgresServer, **config: Any) -> None:
        self.server = server
        super().__init__(folder, **config)

    @property
    @override
    def config(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.server.port,
            "user": "postgres",
            "password": "",
            "database": "postgres",
            "default_target_schema": self.schema,
        }

    @property
    @override
    def program(self) -> list[str | Path]:
        # As `timezone` in its definition does.
        return ["env", "PGTZ=UTC", *super().program]

    @property
    @override
    def url(self) -> str:
        return "postgres://{user}@{host}:{port}/{database}".format(**self.config)

    @property
    @override
    def schema(self) -> str:
        # One per folder: tests share a server, but no table.
        return re.sub(r"\W", "_", self._folder.name).lower()

    @override
    def stored(self, value: Value) -> Value:
        # With `use_copy`, it converts numbers to float.
        return round_to_double(value) if self._options.get("use_copy") else value

    @override
    def query(self, sql: str) -> list[Any]:
        return self.server.query(sql)


class PostgresWithPyArrow(Postgres):
    """With PyArrow in its environment, it also reads Parquet."""

    requirements = (*Postgres.requirements, "pyarrow==26.0.1")

    @override
    def stored(self, value: Value) -> Value:
        # Without `use_copy`, PostgreSQL converts the doubles to NUMERIC, with 15 digits.
        if isinstance(value, Decimal) and not self._options.get("use_copy"):
            return Decimal(f"{value:.15g}")
        return value


# --- BATCH files, merged by the database itself ---------------------------------------------


class MergingDuckDb(DuckDb):
    requirements = LOADER_REQUIREMENTS
    types: ClassVar = DuckDb.types | {"date": "TIMESTAMP WITH TIME ZONE", "array": "VARCHAR[]"}

    @override
    def command_line(self) -> list[str | Path]:
        return [self._bin / "python", LOADER, self.url, f"{self.schema}.contacts"]


class MergingPostgres(Postgres):
    requirements = LOADER_REQUIREMENTS
    types: ClassVar = Postgres.types | {
        "number": "double precision",
        "date": "timestamp with time zone",
    }

    @override
    def command_line(self) -> list[str | Path]:
        return [self._bin / "python", LOADER, self.url, f"{self.schema}.contacts"]


class PostgresServer:
    """A PostgreSQL server on the loopback interface, with one user without a password."""

    def __init__(self, programs: Path, port: int, pid: int) -> None:
        self._programs = programs
        self.port = port
        self.pid = pid

    def query(self, sql: str) -> list[Any]:
        """Return the results of a query for one column of JSON."""
        # A plain SELECT would lose U+10FFFF, which psql does not print. JSON has no such
        # control characters, so nothing is quoted.
        copy = f"COPY ({sql}) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
        address = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"
        address += " options='-c timezone=UTC'"
        connect = ["--no-psqlrc", f"{address} client_encoding=UTF8"]
        return _parse_lines(pipe_to([self._programs / "psql", *connect, "--command", copy], b""))


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """Run a server with a temporary data directory."""
    # Debian does not put them on the PATH.
    initdb = shutil.which("initdb") or max(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None
    )
    programs = Path(initdb or skip_or_fail("PostgreSQL is not installed")).resolve().parent
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
        options = (
            f"-p {port} -F -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
            # Not UTC, as most servers are.
            "-c timezone=America/New_York"
        )
        free.close()
        run("pg_ctl", "--wait", "--options", options, "start")
        try:
            pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            yield PostgresServer(programs, port, pid)
        finally:
            run("pg_ctl", "--wait", "--mode=immediate", "stop")
