"""Two sessions at once on one thing: the second is refused at once and told of the first."""

import signal
from pathlib import Path

import pg_cluster
from users_world import Run, differences, kill_marked, tree, until

_TARGET = """
[target]
name = "two"
command = ["sh", "-c", "sleep 0.4; . ./{conf}; echo v: $x"]
[[file]]
path = "{conf}"
content = "x={x}\\n"
[[parameter]]
name = "x"
type = "int"
low = 1
high = 1000
default = 1
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
"""
# how the second session differs from the first, which is named "nightly"
WAYS = (
    "one store",
    "two stores",
    "two homes",
    "a symbolic link",
    "a hard link",
    "a linked folder",
    "another TOML file",
    "the same name in two stores",
)
_AT_ONCE_S = 12.0  # the start of the command included, on a busy machine
_END_S = 60.0


def _words(target: list[str], name: str, trials: str = "50") -> list[str]:
    return ["tune", *target, "--tuner", "random", "--trust", "fast", "--trials", trials, "--name", name]


def both_at_once(way: str, folder: Path) -> list[str]:
    """Run two sessions on one file; returns what is wrong."""
    world, homes = folder / "world", [folder / "home-1", folder / "home-2" if way == "two homes" else folder / "home-1"]
    world.mkdir()
    (world / "server.conf").write_text("x=7 # the user's\n")
    (world / "first.toml").write_text(_TARGET.replace("{conf}", "server.conf"))
    second, cwd = "first.toml", world
    if way == "another TOML file":
        second = "second.toml"
        (world / second).write_text(_TARGET.replace("{conf}", "server.conf").replace('"two"', '"other"'))
    if way in ("a symbolic link", "a hard link"):
        other = world / "other.conf"
        other.symlink_to("server.conf") if way == "a symbolic link" else other.hardlink_to(world / "server.conf")
        second = "second.toml"
        (world / second).write_text(_TARGET.replace("{conf}", "other.conf"))
    if way == "a linked folder":
        cwd = folder / "link"
        cwd.symlink_to("world")
    stores: list[list[str]] = [[], []]
    if way in ("two stores", "the same name in two stores"):
        stores = [["--store", f"sqlite:///{folder / f'{n}.db'}"] for n in ("a", "b")]
    name = "nightly" if way == "the same name in two stores" else "second"
    before = tree(world)
    changed = lambda: (world / "server.conf").read_text() != "x=7 # the user's\n"  # noqa: E731
    runs = [
        Run(
            [*_words(["first.toml"], "nightly"), *stores[0]],
            cwd=world,
            home=homes[0],
            output=folder / "1.txt",
            mark=way,
        )
    ]
    try:
        if not until(changed, 30, runs[0]):
            return [f"the first session changed nothing: {runs[0].last_line}"]
        words = [*_words([second], name), *stores[1]]
        runs.append(Run(words, cwd=cwd, home=homes[1], output=folder / "2.txt", mark=way))
        return _judged(runs, before, lambda: tree(world))
    finally:
        for run in runs:
            run.stop()
        kill_marked(way)


def both_on_one_server(way: str, cluster: pg_cluster.Cluster, folder: Path) -> list[str]:
    """Likewise on one PostgreSQL server; the second reaches it by another spelling of its address."""
    names = ("work_mem", "random_page_cost")
    homes = [folder / "home-1", folder / "home-2" if way == "two homes" else folder / "home-1"]
    stores = [["--store", f"sqlite:///{folder / n}.db"] if way == "two stores" else [] for n in ("a", "b")]
    targets = [
        [f"postgres:{dsn}", "-O", f"parameters={','.join(names)}", "-O", "scale=1", "-O", "clients=1", "-O", "aim=1.5"]
        for dsn in (cluster.dsn, f"{cluster.dsn} application_name=mine")
    ]
    before, text = cluster.settings(names), cluster.auto_conf.read_text()
    mark = f"server {way}"
    runs = [
        Run([*_words(targets[0], "nightly"), *stores[0]], cwd=folder, home=homes[0], output=folder / "1.txt", mark=mark)
    ]
    try:
        if not until(lambda: cluster.auto_conf.read_text() != text, 60, runs[0]):
            return [f"the first session changed nothing: {runs[0].last_line}"]
        words = [*_words(targets[1], "second"), *stores[1]]
        runs.append(Run(words, cwd=folder, home=homes[1], output=folder / "2.txt", mark=mark))
        return _judged(runs, before, lambda: cluster.settings(names))
    finally:
        for run in runs:
            run.stop()
        kill_marked(mark)


def _judged(runs: list[Run], before: dict, state) -> list[str]:
    first, second = runs
    wrong = []
    code = second.wait(_AT_ONCE_S)
    if code is None:
        wrong.append(f"the second session was not refused within {_AT_ONCE_S:.0f} s: {second.last_line}")
        second.send(signal.SIGTERM)
        second.wait(_END_S)
    elif code == 0:
        wrong.append("the second session ended with exit code 0")
    else:
        if first.ended:
            wrong.append("the first session had ended before the second was refused; the test says nothing")
        if "nightly" not in second.last_line:
            wrong.append(f"the refusal does not name the first session: {second.last_line}")
        if "Traceback" in second.text or not second.last_line.startswith("error:"):
            wrong.append(f"the refusal is no single line: {second.text[-300:]}")
    if not first.ended:
        first.send(signal.SIGTERM)
    code = first.wait(_END_S)
    if code not in (0, 128 + signal.SIGTERM, 130):
        wrong.append(f"the first session ended with exit code {code}: {first.last_line}")
    return [*wrong, *differences(before, state())]
