"""Valid files of every kind, changed at random and read: run as a program, it writes what went wrong as JSON.

    python tests/mutate.py FOLDER COUNT SEED

A *traceback* is whatever the command line would not turn into one line. Peak memory is of this process and its children.
"""

import contextlib
import io
import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
import zlib
from pathlib import Path

from doors import Door, attributes, doors, edited, put

SECONDS = 20  # of processor time that one input may take
STUCK = 120  # seconds on the clock
NUMBERS = [
    b"0", b"-1", b"1000000000000", b"1" + b"0" * 15, b"9" * 19, b"9" * 40, b"7" * 5000, b"1e308", b"-1e308", b"1e400", b"nan",
    b"inf", b"-inf", b"0.0", b"1e-320", b"0x10", b"1_000", b"", b"x", b"true", b"null", b'"text"', b"[]", b"{}", b"[1]", b"{\"a\": 1}",
]  # fmt: skip
PIECES = [
    b"\0", b"\r", b"\r\n", b"\n", b"\n\n", b"\x1a", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b'"', b"'",
    b",", b";", b"\t", b"[" * 3000, b"{\"a\":" * 3000, b"(" * 3000, b"<div>" * 3000, b"<dl><dd>" * 1500, b"> " * 3000, b"- " * 3000,
    b"* " * 500, b"[[" * 200, b"a." * 5000, b"<![", b"<!-- ", b"]]>", b"\\", b"{x}", b"{" * 30, b"%", b"\x1b[31m", b"a" * 200_000, b"\\u0000",
    "日本".encode(), b"_" * 5000, b"`" * 999, b"| " * 2000, b".. include:: /etc/passwd\n", b".so /etc/passwd\n",
]  # fmt: skip


class Late(BaseException):
    """An input took too long."""


def changed(rng: random.Random, content: bytes) -> bytes:
    """Return the content with one to four changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = rng.choice(CHANGES)(rng, content)
    return content


def _flip(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 3, 20])):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.choice([0, len(content), rng.randrange(len(content) + 1), content.find(b"\n") + 1])
    return content[:at] + rng.choice(PIECES) + content[at:]


def _number(rng: random.Random, content: bytes) -> bytes:
    places = list(re.finditer(rb"-?\d+(?:\.\d+)?", content))
    if not places:
        return content
    place = rng.choice(places)
    new = rng.choice(NUMBERS)
    if rng.random() < 0.2:  # everywhere
        return content.replace(place[0], new)
    return content[: place.start()] + new + content[place.end() :]


def _word(rng: random.Random, content: bytes) -> bytes:
    places = list(re.finditer(rb"[A-Za-z_]\w*|\"[^\"\n]*\"|\[[^\[\]\n]*\]|\{[^{}\n]*\}", content))
    if not places:
        return content
    place, other = rng.choice(places), rng.choice(places)
    new = rng.choice([other[0], b"", *NUMBERS])
    return content[: place.start()] + new + content[place.end() :]


def _lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.randrange(6)
    if how == 0:
        lines[i], lines[j] = lines[j], lines[i]
    elif how == 1:
        lines.insert(i, lines[j])
    elif how == 2:
        del lines[i]
    elif how == 3:
        rng.shuffle(lines)
    elif how == 4:
        lines = lines[:i] + lines[i : i + 1] * 2000 + lines[i:]
    else:
        lines[i] = b"".join(lines[i:j])
    return b"\n".join(lines)


def _columns(rng: random.Random, content: bytes) -> bytes:
    lines = [line.split(b",") for line in content.split(b"\n")]
    wide = max(len(line) for line in lines)
    i, j, rows = rng.randrange(wide), rng.randrange(wide), rng.choice([lines, lines[:1], lines[1:], lines[-2:]])
    how = rng.randrange(4)
    for line in rows:
        if max(i, j) >= len(line):
            continue
        if how == 0:
            line[i], line[j] = line[j], line[i]
        elif how == 1:
            del line[i]
        elif how == 2:
            line.insert(i, line[j])
        else:
            line[i] = line[j]
    return b"\n".join(b",".join(line) for line in lines)


CHANGES = [_flip, _cut, _insert, _insert, _number, _number, _number, _word, _word, _lines, _lines, _columns, _columns]


def packed(rng: random.Random, content: bytes) -> bytes:
    """Return the content packed, the result perhaps damaged, cut, or a bomb."""
    how, wide = rng.randrange(8), zlib.MAX_WBITS | 16
    pack = zlib.compressobj(1, zlib.DEFLATED, wide) if rng.random() < 0.5 else _zstd().ZstdCompressor(1)
    parts = [pack.compress(content)]
    if how == 0 and content:  # a bomb: the last lines again and again, or nothing but zeros
        part = rng.choice([content[-200:], b"\0", content[: content.find(b"\n") + 1] or b"1,", b"[", b"\n"])
        part *= 10**6 // len(part)
        parts += [pack.compress(part) for _ in range(rng.choice([60, 200]))]
    data = b"".join([*parts, pack.flush()])
    if how in (1, 2):
        return data[: rng.randrange(len(data))]
    if how in (3, 4):
        return _flip(rng, data)
    return data + data if how == 5 else data + b"tail" if how == 6 else data


def _zstd():
    import importlib

    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


def mutated(rng: random.Random, door: Door, folder: Path) -> bytes:
    """Return a mutation of a door's file."""
    if door.name == "sessions.db" and rng.random() < 0.8:
        known = attributes(door.content, folder)
        name = rng.choice(sorted(known))
        return edited(door.content, folder, name, changed(rng, known[name].encode()).decode(errors="replace"))
    if door.packed and rng.random() < 0.2:
        return packed(rng, door.content if rng.random() < 0.5 else changed(rng, door.content))
    return changed(rng, door.content)


#: options with absurd numbers; N stands for one
OPTIONS = [
    "trace synthetic:KIND -O requests=N", "trace synthetic:KIND -O pages=N", "trace synthetic:KIND -O size_pages=N",
    "trace synthetic:KIND -O gap_us=N", "trace synthetic:KIND -O skew=N", "trace synthetic:sequential -O streams=N",
    "trace synthetic:phases -O phases=N", "trace synthetic:tenants -O shares=N", "trace synthetic:zipf -O seed=N",
    "trace synthetic:bursts -O burst=N", "trace synthetic:mixed -O scan_pages=N", "trace synthetic:checkpoint -O every=N",
    "trace synthetic:ycsb -O compaction_requests=N", "trace synthetic:zipf --requests N",
    "simulate serving -t synthetic:chat -O requests=N", "simulate serving --requests N -O requests=50",
    "simulate serving -O requests=50 -O users=N", "simulate serving -O requests=50 -O groups=N",
    "simulate serving -O requests=50 -O prefix=N -O groups=4", "simulate serving -O requests=50 -O questions=N",
    "simulate serving -O requests=50 -O prompt=N", "simulate serving -O requests=50 -O output=N",
    "simulate serving -O requests=50 -O rate=N", "simulate serving -O requests=50 -O cv=N",
    "simulate serving -O requests=50 -c h100:N", "simulate serving -O requests=50 --tp N",
    "simulate spark -O jobs=N", "simulate spark --jobs N", "simulate spark --users N --jobs 20",
    "simulate spark --jobs 20 -O stages=N", "simulate spark --jobs 20 -O task_s=N", "simulate spark --jobs 20 -O work=N",
    "simulate spark --jobs 20 --cores N", "simulate spark --jobs 20 --partition-s N",
    "simulate cluster -O jobs=N", "simulate cluster --jobs N", "simulate cluster -n Nx8 --jobs 20",
    "simulate cluster -n 16xN --jobs 20", "simulate cluster -n cpu:N --jobs 20", "simulate cluster --jobs 20 -O users=N",
    "simulate cluster --jobs 20 -O gpus=N", "simulate cluster --jobs 20 -O run_s=N", "simulate cluster --jobs 20 --load N",
    "simulate serverless -O functions=N", "simulate serverless -O hours=N", "simulate serverless -O rate=N -O functions=10",
    "simulate serverless -O functions=10 -O run_s=N", "plan serve -m llama3-8b -c h100:N --isl 100 --osl 20 --rate 1",
    "plan serve -m llama3-8b -c h100:2 --isl N --osl 20 --rate 1", "plan serve -m llama3-8b -c h100:2 --isl 100 --osl 20 --rate N",
    "plan serve -m llama3-8b -c h100:2 --isl 100 --osl 20 --rate 1 --runners N",
    "plan train -m llama3-8b -c h100:N -b 64 -s 2048", "plan train -m llama3-8b -c h100:8 -b N -s 2048",
    "plan train -m llama3-8b -c h100:8 -b 64 -s N", "place synthetic:zipf -O requests=N -p lru",
    "place synthetic:zipf -O requests=50 -O pages=N -p lru", "place synthetic:zipf -O requests=50 --fast N -p lru",
]  # fmt: skip
ABSURD = ["0", "-1", "1000000000000", "1000000000000000", "9" * 19, "9" * 40, "7" * 5000, "1e308", "1e15", "nan", "inf", "1e-300", "x", "²"]  # fmt: skip
KINDS = ["zipf", "sequential", "mixed", "bursts", "phases", "ycsb", "checkpoint", "tenants"]


def reads(words: list[str], door: Door | None, path: Path | None) -> str:
    """Run the command line in this process; returns what went wrong, or ""."""
    from tunewright.cli import main
    from tunewright.errors import TunewrightError
    from tunewright.store.files import one_line

    out, err, begun, code = io.StringIO(), io.StringIO(), time.monotonic(), 0
    try:
        signal.alarm(STUCK)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if door is not None and door.call is not None:
                door.call(path)
            else:
                code = main(words)
    except TunewrightError as error:  # of a door that no command reads
        err, code = io.StringIO(f"error: {one_line(str(error))}"), 1
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except Late:
        return f"took more than {SECONDS} s, {time.monotonic() - begun:.0f} s on the clock"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    said = err.getvalue().strip()
    if code == 1 and said:
        one = said.startswith("error: ") and len(said.splitlines()) == 1 and len(said) < 3000
        return "" if one else f"not one line: {said[:400]!r}"
    return f"a traceback: {said[-2000:]}" if "Traceback" in said else ""


def _late(signum, frame):
    raise Late


def peak_mb() -> dict[str, float]:
    """Return the peak resident memory of this process and of its largest child."""
    # its own ru_maxrss would begin with the size of the process that started it
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = int(status["VmHWM"].split()[0]) / 1024
    return {"own": own, "child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}


def main(folder: Path, count: int, seed: int) -> None:
    """Read ``count`` mutations."""
    warnings.simplefilter("ignore")
    os.environ.update(TUNEWRIGHT_HOME=str(folder / "home"), COLUMNS="120")
    for name in ("TUNEWRIGHT_MAX_INPUT_MB", "TUNEWRIGHT_STORE"):
        os.environ.pop(name, None)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _late)
    rng = random.Random(seed)
    known = doors(folder / "made")
    weights = [d.weight for d in known]
    wrong, kinds, high = [], {}, peak_mb()["own"]

    def write(done: int) -> None:
        slow = dict(sorted(kinds.items(), key=lambda k: -k[1])[:15])
        report = {
            "count": done,
            "seed": seed,
            "doors": len(known),
            "wrong": wrong,
            "peak_mb": peak_mb(),
            "slowest_s": slow,
        }
        (folder / "report.json").write_text(json.dumps(report, indent=1))

    for door in known:  # each valid file is read
        path = put(door, door.content, folder / "try")
        words = [w.replace("FILE", str(path)).replace("FOLDER", str(path.parent)) for w in door.words]
        said = reads(words, door, path)
        if said:
            wrong.append({"door": door.name, "words": words, "said": f"the valid file: {said}"})
    for number in range(count):
        started = time.monotonic()
        if rng.random() < 0.1:
            line = rng.choice(OPTIONS).replace("KIND", rng.choice(KINDS))
            words, door, path, what = [w.replace("N", rng.choice(ABSURD)) for w in line.split()], None, None, line
        else:
            door = rng.choices(known, weights)[0]
            path = put(door, mutated(rng, door, folder), folder / "try")
            words = [w.replace("FILE", str(path)).replace("FOLDER", str(path.parent)) for w in door.words]
            what = f"{door.name} {' '.join(door.words)}"
        said = reads(words, door, path)
        peak = peak_mb()["own"]
        if not said and peak > high and peak > 1000:
            said = f"took the memory to {peak:.0f} MB"
        high = max(high, peak)
        kinds[what] = kinds.get(what, 0.0) + time.monotonic() - started
        if said:
            kept = folder / "wrong" / str(number)
            kept.mkdir(parents=True, exist_ok=True)
            if path is not None:
                (kept / path.name).write_bytes(path.read_bytes())
            wrong.append({"number": number, "door": what, "words": words, "said": said})
        if said or not number % 100:
            write(number + 1)
    write(count)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
