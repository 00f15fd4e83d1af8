"""Data and queries of TPC-H for analytical loads: the eight tables of its specification, drawn from a seed.

Keys, counts, ranges, dates and the relations between columns are those of clauses 1.4 and 4.2 of the TPC-H
specification (revision 3.0.1). Two things are simpler: texts are drawn from the specification's words without its
grammar, and numbers come from numpy's generator instead of dbgen's. So rows and answers are not dbgen's, and figures
are no TPC-H results. The 22 queries, in ``tpch.sql``, have the substitution parameters of the specification's
validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = {
    "region": "r_regionkey int, r_name char(25), r_comment varchar(152)",
    "nation": "n_nationkey int, n_name char(25), n_regionkey int, n_comment varchar(152)",
    "supplier": "s_suppkey int, s_name char(25), s_address varchar(40), s_nationkey int, s_phone char(15), "
    "s_acctbal decimal(15,2), s_comment varchar(101)",
    "part": "p_partkey int, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25), p_size int, "
    "p_container char(10), p_retailprice decimal(15,2), p_comment varchar(23)",
    "partsupp": "ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost decimal(15,2), ps_comment varchar(199)",
    "customer": "c_custkey int, c_name varchar(25), c_address varchar(40), c_nationkey int, c_phone char(15), "
    "c_acctbal decimal(15,2), c_mktsegment char(10), c_comment varchar(117)",
    "orders": "o_orderkey bigint, o_custkey int, o_orderstatus char(1), o_totalprice decimal(15,2), o_orderdate date, "
    "o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79)",
    "lineitem": "l_orderkey bigint, l_partkey int, l_suppkey int, l_linenumber int, l_quantity decimal(15,2), "
    "l_extendedprice decimal(15,2), l_discount decimal(15,2), l_tax decimal(15,2), l_returnflag char(1), "
    "l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), "
    "l_shipmode char(10), l_comment varchar(44)",
}
KEYS = {
    "region": "r_regionkey", "nation": "n_nationkey", "supplier": "s_suppkey", "part": "p_partkey",
    "partsupp": "ps_partkey, ps_suppkey", "customer": "c_custkey", "orders": "o_orderkey",
    "lineitem": "l_orderkey, l_linenumber",
}  # fmt: skip
REFERENCES = (
    ("nation", "n_regionkey", "region"), ("supplier", "s_nationkey", "nation"), ("customer", "c_nationkey", "nation"),
    ("partsupp", "ps_partkey", "part"), ("partsupp", "ps_suppkey", "supplier"), ("orders", "o_custkey", "customer"),
    ("lineitem", "l_orderkey", "orders"), ("lineitem", "l_partkey, l_suppkey", "partsupp"),
)  # fmt: skip
_NATIONS = (
    "ALGERIA 0, ARGENTINA 1, BRAZIL 1, CANADA 1, EGYPT 4, ETHIOPIA 0, FRANCE 3, GERMANY 3, INDIA 2, INDONESIA 2, "
    "IRAN 4, IRAQ 4, JAPAN 2, JORDAN 4, KENYA 0, MOROCCO 0, MOZAMBIQUE 0, PERU 1, CHINA 2, ROMANIA 3, SAUDI ARABIA "
    "4, VIETNAM 2, RUSSIA 3, UNITED KINGDOM 3, UNITED STATES 1"
).split(", ")
_REGIONS = ("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST")
_COLORS = (
    "almond antique aquamarine azure beige bisque black blanched blue blush brown burlywood burnished chartreuse "
    "chiffon chocolate coral cornflower cornsilk cream cyan dark deep dim dodger drab firebrick floral forest "
    "frosted gainsboro ghost goldenrod green grey honeydew hot indian ivory khaki lace lavender lawn lemon light "
    "lime linen magenta maroon medium metallic midnight mint misty moccasin navajo navy olive orange orchid pale "
    "papaya peach peru pink plum powder puff purple red rose rosy royal saddle salmon sandy seashell sienna sky "
    "slate smoke snow spring steel tan thistle tomato turquoise violet wheat white yellow"
).split()
_TYPES = [
    f"{a} {b} {c}"
    for a in ("STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO")
    for b in ("ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED")
    for c in ("TIN", "NICKEL", "BRASS", "STEEL", "COPPER")
]
_CONTAINERS = [
    f"{a} {b}"
    for a in ("SM", "LG", "MED", "JUMBO", "WRAP")
    for b in ("CASE", "BOX", "BAG", "JAR", "PKG", "PACK", "CAN", "DRUM")
]
_SEGMENTS = ("AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD")
_PRIORITIES = ("1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW")
_INSTRUCTIONS = ("DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN")
_MODES = ("REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB")
_WORDS = (
    "foxes ideas theodolites pinto beans instructions dependencies excuses platelets asymptotes courts dolphins "
    "sleep wake are cajole haggle nag use boost affix detect integrate maintain nod was lose sublate solve thrash "
    "promise engage hinder print x-ray breach eat grow impress mold poach serve run dazzle snooze doze unwind "
    "kindle play hang believe doubt furious sly careful blithe quick fluffy slow quiet ruthless thin close dogged "
    "daring brave stealthy permanent enticing idle busy regular final ironic even bold silent special pending "
    "unusual express sometimes always never furiously slyly carefully blithely quickly fluffily about above "
    "according to across after against along requests accounts deposits packages the theodolites"
).split()
_POOL, _CHUNK = 300_000, 20_000  # characters that texts are cut from; orders that are made at once
_FIRST_DAY, _LAST_ORDER, _TODAY = np.datetime64("1992-01-01"), np.datetime64("1998-08-02"), np.datetime64("1995-06-17")
IntArray = NDArray[np.int64]
Columns = Iterable[Iterable[str]]


def script() -> Path:
    """Return the file of the 22 queries, in the dialect that PostgreSQL and DuckDB share."""
    return Path(str(files("tunewright.envs.storage") / "tpch.sql"))


def tables(scale: float, seed: int) -> Iterator[tuple[str, str]]:
    """Yield the name of a table, and lines of it as COPY reads them: columns between tabs; large tables in pieces.

    Args:
        scale: 1 for about 1 GB, in 6 million lines of orders; at least 0.001.
        seed: of all that is drawn.
    """
    makers = {
        "region": _region, "nation": _nation, "supplier": _supplier, "part": _part, "partsupp": _partsupp,
        "customer": _customer,
    }  # fmt: skip
    words = np.random.default_rng([seed, 0]).choice(_WORDS, _POOL // 5)
    pool = " ".join(words)
    for number, (name, make) in enumerate(makers.items(), 1):
        yield name, _lines(make(_Draw(np.random.default_rng([seed, number]), pool), scale))
    orders = _count(1_500_000, scale)
    for first in range(0, orders, _CHUNK):
        draw = _Draw(np.random.default_rng([seed, 7, first]), pool)
        both = _orders(draw, scale, np.arange(first, min(first + _CHUNK, orders)))
        yield from ((name, _lines(columns)) for name, columns in both.items())


def load(connection: Any, scale: float, seed: int) -> None:
    """Make and fill the tables in a PostgreSQL database, with their keys, references and the indexes of these.

    Args:
        connection: of psycopg.
        scale: see :func:`tables`.
        seed: likewise.
    """
    for name, columns in SCHEMA.items():
        connection.execute(f"CREATE TABLE {name} ({', '.join(f'{c} NOT NULL' for c in _split(columns))})")
    for name, text in tables(scale, seed):
        with connection.cursor() as cursor, cursor.copy(f"COPY {name} FROM STDIN") as copy:
            copy.write(text)
    for name, key in KEYS.items():
        connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY ({key})")
    for name, columns, other in REFERENCES:
        connection.execute(f"ALTER TABLE {name} ADD FOREIGN KEY ({columns}) REFERENCES {other}")
        connection.execute(f"CREATE INDEX ON {name} ({columns})")
    connection.execute("ANALYZE")


def _split(columns: str) -> list[str]:
    return (
        columns.replace("(15,2)", "(15.2)").replace(", ", ",").replace(",", "\n").replace("15.2", "15,2").splitlines()
    )


def _lines(columns: Columns) -> str:
    return "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"


def _count(whole: int, scale: float) -> int:
    return max(1, round(whole * scale))


class _Draw:
    """Draws columns as texts.

    Args:
        rng: the numbers.
        pool: that texts are cut from.
    """

    def __init__(self, rng: np.random.Generator, pool: str) -> None:
        self.rng, self._pool = rng, pool

    def ints(self, low: int, high: int, count: int) -> IntArray:
        """Whole numbers, both ends included."""
        return self.rng.integers(low, high + 1, count)

    def of(self, values: Iterable[str], count: int) -> list[str]:
        """Some of a list."""
        known = list(values)
        return [known[i] for i in self.rng.integers(0, len(known), count)]

    def text(self, low: int, high: int, count: int) -> list[str]:
        """Texts of so many characters."""
        begins, sizes = self.rng.integers(0, len(self._pool) - high, count), self.ints(low, high, count)
        return [self._pool[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]

    def phones(self, nations: IntArray) -> list[str]:
        """Numbers whose country code is the nation's (clause 4.2.2.9)."""
        parts = (nations + 10, *(self.ints(a, b, len(nations)) for a, b in ((100, 999), (100, 999), (1000, 9999))))
        return [f"{a}-{b}-{c}-{d}" for a, b, c, d in zip(*parts, strict=True)]


def _plain(numbers: IntArray) -> list[str]:
    return list(map(str, numbers.tolist()))


def _cents(numbers: IntArray) -> list[str]:
    return [f"{number / 100:.2f}" for number in numbers.tolist()]


def _dates(days: Any) -> list[str]:
    return list(days.astype("datetime64[D]").astype(str))


def _region(draw: _Draw, scale: float) -> Columns:
    return _plain(np.arange(5)), _REGIONS, draw.text(31, 115, 5)


def _nation(draw: _Draw, scale: float) -> Columns:
    parts = [entry.rpartition(" ") for entry in _NATIONS]
    return _plain(np.arange(25)), [p[0] for p in parts], [p[2] for p in parts], draw.text(31, 114, 25)


def _supplier(draw: _Draw, scale: float) -> Columns:
    count = _count(10_000, scale)
    keys, nations = np.arange(1, count + 1), draw.ints(0, 24, count)
    comments = draw.text(25, 100, count)
    told = draw.rng.permutation(count)[: 2 * _count(5, scale)]
    for row, words in zip(told, ("Customer Complaints", "Customer Recommends") * count, strict=False):
        comments[row] = f"{comments[row][:40]}{words}"
    return (
        _plain(keys), [f"Supplier#{k:09d}" for k in keys], draw.text(10, 40, count), _plain(nations),
        draw.phones(nations), _cents(draw.ints(-99_999, 999_999, count)), comments,
    )  # fmt: skip


def _price_cents(parts: IntArray) -> IntArray:
    """Return P_RETAILPRICE (clause 4.2.3)."""
    return 90_000 + (parts // 10) % 20_001 + 100 * (parts % 1000)


def _part(draw: _Draw, scale: float) -> Columns:
    count = _count(200_000, scale)
    keys, maker = np.arange(1, count + 1), draw.ints(1, 5, count)
    names = [" ".join(_COLORS[i] for i in draw.rng.permutation(len(_COLORS))[:5]) for _ in range(count)]
    return (
        _plain(keys), names, [f"Manufacturer#{m}" for m in maker],
        [f"Brand#{m}{n}" for m, n in zip(maker, draw.ints(1, 5, count), strict=True)], draw.of(_TYPES, count),
        _plain(draw.ints(1, 50, count)), draw.of(_CONTAINERS, count), _cents(_price_cents(keys)),
        draw.text(5, 22, count),
    )  # fmt: skip


def _suppliers(parts: IntArray, which: IntArray, scale: float) -> IntArray:
    """Return one of the four suppliers of each part (PS_SUPPKEY, clause 4.2.3)."""
    count = _count(10_000, scale)
    return (parts + which * (count // 4 + (parts - 1) // count)) % count + 1


def _partsupp(draw: _Draw, scale: float) -> Columns:
    count = _count(200_000, scale)
    parts, which = np.repeat(np.arange(1, count + 1), 4), np.tile(np.arange(4), count)
    return (
        _plain(parts), _plain(_suppliers(parts, which, scale)), _plain(draw.ints(1, 9999, 4 * count)),
        _cents(draw.ints(100, 100_000, 4 * count)), draw.text(49, 198, 4 * count),
    )  # fmt: skip


def _customer(draw: _Draw, scale: float) -> Columns:
    count = _count(150_000, scale)
    keys, nations = np.arange(1, count + 1), draw.ints(0, 24, count)
    return (
        _plain(keys), [f"Customer#{k:09d}" for k in keys], draw.text(10, 40, count), _plain(nations),
        draw.phones(nations), _cents(draw.ints(-99_999, 999_999, count)), draw.of(_SEGMENTS, count),
        draw.text(29, 116, count),
    )  # fmt: skip


def _orders(draw: _Draw, scale: float, numbers: IntArray) -> dict[str, Columns]:
    """Return orders, and their lines."""
    count = len(numbers)
    keys = numbers // 8 * 32 + numbers % 8 + 1  # of each 32 keys the first 8 are used
    third = draw.ints(0, max(1, _count(150_000, scale) * 2 // 3) - 1, count)
    customers = np.minimum(third // 2 * 3 + third % 2 + 1, _count(150_000, scale))  # every third one orders nothing
    days = _FIRST_DAY + draw.ints(0, int((_LAST_ORDER - _FIRST_DAY).astype(int)), count)
    lines = draw.ints(1, 7, count)
    order, total = np.repeat(np.arange(count), lines), int(lines.sum())
    begins = np.concatenate([[0], np.cumsum(lines)[:-1]])
    parts = draw.ints(1, _count(200_000, scale), total)
    quantity, discount, tax = draw.ints(1, 50, total), draw.ints(0, 10, total), draw.ints(0, 8, total)
    price = quantity * _price_cents(parts)
    shipped = days[order] + draw.ints(1, 121, total)
    received = shipped + draw.ints(1, 30, total)
    returned = np.where(received <= _TODAY, np.where(draw.ints(0, 1, total) == 1, "R", "A"), "N")
    is_open = shipped > _TODAY
    still = np.add.reduceat(is_open.astype(int), begins)
    paid = np.add.reduceat(price * (100 + tax) * (100 - discount), begins)
    status = np.where(still == 0, "F", np.where(still == lines, "O", "P"))
    return {
        "orders": (
            _plain(keys), _plain(customers), status.tolist(), _cents((paid + 5000) // 10_000), _dates(days),
            draw.of(_PRIORITIES, count), [f"Clerk#{n:09d}" for n in draw.ints(1, _count(1000, scale), count)],
            ["0"] * count, draw.text(19, 78, count),
        ),
        "lineitem": (
            _plain(keys[order]), _plain(parts), _plain(_suppliers(parts, draw.ints(0, 3, total), scale)),
            _plain(np.arange(total) - begins[order] + 1), _plain(quantity), _cents(price), _cents(discount),
            _cents(tax),
            returned.tolist(), np.where(is_open, "O", "F").tolist(), _dates(shipped),
            _dates(days[order] + draw.ints(30, 90, total)), _dates(received), draw.of(_INSTRUCTIONS, total),
            draw.of(_MODES, total), draw.text(10, 43, total),
        ),
    }  # fmt: skip
