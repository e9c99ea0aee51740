# SPDX-License-Identifier: Apache-2.0
"""The drivers: where they come from, how their programs run, and which pool the documents give them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

PROGRAMS = pathlib.Path(__file__).with_name("programs")
ROOT = pathlib.Path(__file__).parents[2]
CACHE = ROOT / ".cache/drivers"
PYTHON = CACHE / "venv/bin/python"
TRANSACTION, SESSION = "transaction", "session"
PEM = "sslmode=verify-full sslrootcert=ca.crt sslcert=app.crt sslkey=app.key"


@dataclass(frozen=True)
class Driver:
    """A driver in its defaults, or with the one setting that its remedy names.

    pool is the one that the documents give it; options is how it is told of certificates, in copyable form; remedy is what makes it right
    on the transaction pool where it is not by default.
    """

    name: str
    command: tuple[str, ...]
    pool: str
    options: str
    remedy: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


def _debian(package: str) -> str:
    """Return the upstream version of an installed package."""
    found = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True
    )
    return found.stdout.split(":")[-1].split("-")[0].split("+")[0]


def drivers(key_der: pathlib.Path) -> list[Driver]:
    """Return the drivers; key_der is the client's key as PKCS#8 DER."""
    python, go = str(PYTHON), str(CACHE / "go_sql")
    jar = "/usr/share/java/postgresql.jar"
    pgx, pq = (f"{name} {_debian(package)}" for name, package in (
        ("Go pgx", "golang-github-jackc-pgx-v4-dev"), ("Go lib/pq", "golang-github-lib-pq-dev"),
    ))  # fmt: skip
    odbc = {"DRIVERS_ODBC": "/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so"}
    return [
        Driver("psycopg", (python, "psycopg3.py"), TRANSACTION, PEM),
        Driver("psycopg2", (python, "psycopg2_.py"), TRANSACTION, PEM),
        Driver("asyncpg", (python, "asyncpg_.py"), TRANSACTION, f"in the URL: {PEM.replace(' ', '&')}"),
        Driver("pg8000", (python, "pg8000_.py"), SESSION, "ssl_context=context with load_cert_chain(cert, key)"),
        Driver("SQLAlchemy", (python, "sqlalchemy_.py"), TRANSACTION, "postgresql+psycopg URL with the words of psycopg"),
        Driver("Django", (python, "django_.py"), SESSION, f"OPTIONS: {PEM}", "`DISABLE_SERVER_SIDE_CURSORS=True`"),
        Driver(
            "Django, DISABLE_SERVER_SIDE_CURSORS", (python, "django_.py"), TRANSACTION, f"OPTIONS: {PEM}",
            variables={"DRIVERS_DJANGO_CURSORS": "off"},
        ),
        Driver("node pg", ("node", "node_pg.mjs"), TRANSACTION, "ssl: {ca, cert, key}"),
        Driver("postgres.js", ("node", "postgres_js.mjs"), TRANSACTION, "ssl: {ca, cert, key}"),
        Driver("pgjdbc", ("java", "-cp", jar, "Jdbc.java"), TRANSACTION,
               "sslmode=verify-full&sslrootcert=ca.crt&sslcert=app.crt&sslkey=app.pk8 (PKCS#8 DER)",
               variables={"DRIVERS_SSLKEY_DER": str(key_der)}),
        Driver(pq, (go, "postgres"), SESSION, PEM, "`binary_parameters=yes`",
               {"DRIVERS_VERSION": pq, "DRIVERS_DSN": ""}),
        Driver(f"{pq}, binary_parameters", (go, "postgres"), TRANSACTION, PEM,
               variables={"DRIVERS_VERSION": pq, "DRIVERS_DSN": "binary_parameters=yes"}),
        Driver(f"{pgx} (database/sql)", (go, "pgx"), SESSION, PEM, "no `Prepare` inside a transaction",
               {"DRIVERS_VERSION": pgx, "DRIVERS_DSN": ""}),
        Driver("PHP PDO", ("php", "pdo.php"), SESSION, f"in the DSN: {PEM.replace(' ', ';')}",
               "`PDO::ATTR_EMULATE_PREPARES`, or PHP 8.4 with libpq 17"),
        Driver("DBD::Pg", ("perl", "dbd_pg.pl"), SESSION, f"in the DSN: {PEM.replace(' ', ';')}",
               "`pg_server_prepare => 0`, or DBD::Pg 3.18 with libpq 17"),
        Driver("psqlODBC", (python, "odbc.py"), SESSION, "SSLmode=verify-full;pqopt={sslrootcert=.. sslcert=.. sslkey=..}",
               "`UseServerSidePrepare=0`", odbc),
        Driver("psqlODBC, UseServerSidePrepare=0", (python, "odbc.py"), TRANSACTION,
               "SSLmode=verify-full;pqopt={sslrootcert=.. sslcert=.. sslkey=..}",
               variables={**odbc, "DRIVERS_ODBC_OPTIONS": "UseServerSidePrepare=0"}),
        Driver("Ruby pg", ("ruby", "ruby_pg.rb", "pg"), TRANSACTION, PEM),
        Driver("ActiveRecord, statement_limit 3", ("ruby", "ruby_pg.rb", "rails"), SESSION, f"database.yml: {PEM}",
               "`prepared_statements: false`"),
        Driver("ActiveRecord, prepared_statements false", ("ruby", "ruby_pg.rb", "rails"), TRANSACTION,
               f"database.yml: {PEM}", variables={"DRIVERS_RAILS_PREPARED": "off"}),
    ]  # fmt: skip


def install() -> None:
    """Have the drivers from PyPI and npm, and build the program in Go. Debian's are installed by make drivers."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not PYTHON.exists():
        subprocess.run(["python3", "-m", "venv", CACHE / "venv"], check=True)
    wanted = pathlib.Path(__file__).with_name("requirements.txt")
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--requirement", wanted], check=True)
    npm = shutil.which("npm")
    assert npm, "npm is missing: make drivers installs it"
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=PROGRAMS, check=True)
    # Debian keeps the sources of its Go packages in a GOPATH.
    environment = {**os.environ, "GOPATH": "/usr/share/gocode", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", CACHE / "go_sql", "."], cwd=PROGRAMS / "go", env=environment, check=True)
