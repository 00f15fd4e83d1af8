"""Kills sessions at random moments in a user's worlds and checks that everything is as it was.

    python tests/kill_scenes.py                  all scenes, with the number of kills of the table below
    python tests/kill_scenes.py SCENE            one scene
    python tests/kill_scenes.py SCENE SEED       one life of one scene, told step by step

A life is a world made afresh, a command in it that is killed, perhaps the next ones too, and then what a user would do:
roll back, resume, or start another session. TUNEWRIGHT_KILLS sets the number of kills in all,
TUNEWRIGHT_KILL_WORKERS how many lives are played at once.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from kill_databases import WORLDS as DATABASES
from kill_machine import WORLDS as MACHINES
from kill_servers import WORLDS as SERVERS
from kill_worlds import World
from users_world import Run, kill_marked, strays, until

WORLDS: dict[str, type[World]] = {**DATABASES, **SERVERS, **MACHINES}
# 300 over files, hooks and databases, and as many over servers and settings of the machine, which take longest
KILLS = {
    "files": 85,
    "files-apply": 55,
    "daemon": 45,
    "sqlite": 20,
    "sqlite-apply": 45,
    "rocksdb": 15,
    "postgres": 20,
    "postgres-apply": 15,
    "service": 80,
    "service-kept": 70,
    "mariadb": 40,
    "mariadb-live": 40,
    "machine": 50,
    "machine-apply": 20,
}
SIGNALS = {signal.SIGKILL: 4, signal.SIGHUP: 3, signal.SIGTERM: 3}
_END_S = 45.0  # for putting everything back after a SIGTERM or SIGHUP
_COMMAND_S = 240.0
_TRIES = 4  # to hit a command before it ends by itself


@dataclass(kw_only=True)
class Life:
    """What happened in one life."""

    scene: str
    seed: int
    kills: Counter = field(default_factory=Counter)
    steps: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def tell(self, text: str) -> None:
        self.steps.append(text)

    def fail(self, check: str, what: list[str] | str) -> None:
        lines = [what] if isinstance(what, str) else [*what[:21], *(["..."] if len(what) > 21 else [])]
        self.failures += [f"{self.scene} {self.seed}: {check}: {line}" for line in lines]


class Broken(Exception):
    """A check failed; what follows would only fail for the same reason."""


def live(world: World, seed: int) -> Life:
    """Play one life."""
    life = Life(scene=world.name, seed=seed)
    mark = f"{os.getpid()}-{world.name}-{seed}"
    try:
        world.build(Random(f"world {seed}"), mark)
        _play(world, life, Random(f"life {seed}"), mark)
    except Broken:
        pass
    except Exception as error:
        life.fail("the harness itself", f"{error!r} in {traceback.format_exc().splitlines()[-3].strip()}")
    finally:
        kill_marked(mark)
    return life


def _play(world: World, life: Life, rng: Random, mark: str) -> None:
    killed, dirty = "", False  # the session that was killed last; whether its changes may still be there
    names: list[str] = []  # of all that were killed
    name, kind = ("tuned", "apply") if world.applies else ("one", "tune")
    for number in range(rng.choice([1, 1, 1, 2, 2, 3])):
        tries = 0
        while True:
            tries += 1
            chosen = _chosen(rng)
            run = _start(world, life, kind, name, mark)
            ended = _await_moment(world, run, rng, kind, chosen)
            if not ended:
                break
            _check_end(world, life, run, kind, dirty, names)
            unborn = any(words in run.text for words in _UNBORN)  # then it put nothing back
            dirty = (dirty and unborn) or (world.applies and (dirty or kind == "apply") and kind != "rollback")
            if not dirty:
                _check_world(world, life, mark, f"after {kind} that nobody killed", exact=kind == "resume")
            if kind in ("tune", "new"):
                name = f"{name}-again"
            if tries == _TRIES:
                return
        moment = time.monotonic() - run.begun
        run.send(chosen)
        if chosen != signal.SIGKILL and rng.random() < 0.25:  # of somebody who cannot wait
            second = rng.choice([signal.SIGTERM, signal.SIGHUP])
            until(lambda: False, rng.uniform(0.01, 0.3), run)
            if not run.ended:
                run.send(second)
        code = run.wait(_END_S)
        life.kills[chosen.name] += 1
        life.tell(f"{chosen.name} to {kind} {name} after {moment:.2f} s: exit code {code}; {run.last_line}")
        if code is None:
            run.stop()
            life.fail("the end", f"{kind} did not end within {_END_S:.0f} s of {chosen.name}")
            raise Broken
        _check_text(life, run, kind)
        orderly = chosen != signal.SIGKILL
        when = f"after {chosen.name} to {kind} ({moment:.2f} s) without a further command"
        if orderly and world.applies:
            # applied or not, but nothing between; that rollback brings the original back is checked below
            _check_strays(world, life, mark, when)
            if half := world.half_applied():
                life.fail(f"nothing is half done {when}", half)
                raise Broken
        elif orderly and not dirty:
            # nothing was changed before, so an orderly end has put back all that this command changed
            _check_world(world, life, mark, when, exact=True)
        dirty = dirty or not orderly or world.applies
        if kind in ("tune", "new", "resume", "apply"):
            killed = name
            names.append(name)
        world.untold(run.text)  # of one that was killed, nothing is known
        if rng.random() < 0.5:  # at once, or when the dust has settled
            _check_strays(world, life, mark, f"after {chosen.name} to {kind}")
        if happened := world.meanwhile():
            life.tell(happened)
        kind, name = _next(world, rng, killed, number)
    if not dirty and rng.random() < 0.5:
        return
    if world.applies:
        kind, name = "rollback", killed
    # a session may have been killed before it took its name: then it changed nothing, and the one before it is meant
    others = [n for n in reversed(names) if n != name] if kind in ("rollback", "resume") else []
    for meant in (name, *others):
        run = _start(world, life, kind, meant, mark)
        if run.wait(_COMMAND_S) is None:
            run.stop()
            life.fail("the end", f"{kind} took more than {_COMMAND_S:.0f} s: {run.last_line}")
            raise Broken
        _check_end(world, life, run, kind, dirty, names)
        if not any(words in run.text for words in _UNBORN):
            break
    _check_world(world, life, mark, f"after {kind} at the end", exact=kind == "resume")


def _chosen(rng: Random) -> signal.Signals:
    return rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]


def _next(world: World, rng: Random, killed: str, number: int) -> tuple[str, str]:
    kind = rng.choices(list(world.next_commands), list(world.next_commands.values()))[0]
    return kind, f"other-{number}" if kind == "new" else killed


def _start(world: World, life: Life, kind: str, name: str, mark: str) -> Run:
    for flag in ("applying", "restoring", "hooking"):
        (world.var / flag).unlink(missing_ok=True)
    world.started_changed = world.changed()
    output = world.var / f"output-{len(life.steps)}.txt"
    return Run(
        world.command(kind, name), cwd=world.folder, home=world.home, output=output, mark=mark, launcher=world.launcher
    )


def _await_moment(world: World, run: Run, rng: Random, kind: str, chosen: signal.Signals) -> bool:
    """Wait for the moment of the kill; True where the command ended before it."""
    events = world.events()
    name = rng.choice(sorted(events))
    how, share, after = rng.random(), rng.random(), rng.uniform(0.0, 0.25)
    longest = world.lasts.get(kind) or (world.life_s if kind in ("tune", "new", "resume", "apply") else 1.2)
    capped = longest if rng.random() < 0.1 else min(longest, world.most_s)
    if how < 0.4 and not (kind == "rollback" and name == "changed"):
        until(events[name], 1.5 * capped, run)
        return until(lambda: run.ended, after)
    if how < 0.55:  # start and snapshot
        capped = min(capped, 2.0)
    return until(lambda: run.ended, share * capped)


def _check_text(life: Life, run: Run, kind: str) -> None:
    text = run.text
    if (begin := text.rfind("Traceback (most recent call last)")) >= 0:
        life.fail("one line", [f"{kind} ended with a traceback", *text[begin:].splitlines()[-20:]])
        raise Broken


_UNBORN = ("no session named", "not a session of tunewright")  # killed before it was one
_NOTHING = ("nothing to roll back", *_UNBORN)


def _check_end(world: World, life: Life, run: Run, kind: str, dirty: bool, killed: list[str]) -> None:
    """Check a command that ended by itself; ``killed`` are the sessions before it that did not."""
    code, text = run.wait(1.0), run.text
    life.tell(f"{' '.join(run.words)}: exit code {code}; {run.last_line}")
    if code == 0:
        world.lasts[kind] = max(0.7 * world.lasts.get(kind, 0.0), time.monotonic() - run.begun)
    _check_text(life, run, kind)
    allowed = {
        "rollback": _NOTHING,
        "resume": (*_UNBORN, "the session died"),
        "apply": ("is applied already", "roll"),
    }.get(kind, ())
    if code != 0 and not any(words in text for words in allowed):
        life.fail(f"{kind} works", f"exit code {code}: {run.last_line}")
        raise Broken
    if code == 0 and (silent := world.untold(text)):
        life.fail(f"{kind} says what it left as it is", silent)
        raise Broken
    # which of them left it changed is not known here: the last may have ended before it touched anything
    if kind == "new" and dirty and world.started_changed and not any(repr(name) in text for name in killed):
        life.fail("a new session says what it put back", f"it names none of the killed sessions {', '.join(killed)}")
        raise Broken


def _check_strays(world: World, life: Life, mark: str, when: str) -> None:
    left = strays(mark, allowed=world.daemon)
    if left:
        life.fail(f"no process is left {when}", left)
        raise Broken


def _check_world(world: World, life: Life, mark: str, when: str, *, exact: bool) -> None:
    _check_strays(world, life, mark, when)
    wrong = world.wrong(exact=exact)
    if wrong:
        life.fail(f"all as it was {when}", wrong)
        raise Broken


# -- many lives -----------------------------------------------------------------------------------------


class Tally:
    """Which life is next, until every scene has had its kills; shared by the workers."""

    def __init__(self, wanted: dict[str, int]) -> None:
        self.wanted, self.lives, self.lock = wanted, [], threading.Lock()
        self.seeds, self.running = Counter(), Counter()
        self.stopped = False

    def done(self, scene: str) -> int:
        return sum(sum(life.kills.values()) for life in self.lives if life.scene == scene)

    def next(self) -> tuple[str, int] | None:
        """The scene that is furthest behind, and a seed."""
        with self.lock:
            left = {s: n - self.done(s) - self.running[s] for s, n in self.wanted.items() if self.seeds[s] < 4 * n + 4}
            scene = max(left, key=lambda s: left[s] / self.wanted[s], default=None)
            if self.stopped or scene is None or left[scene] <= 0:
                return None
            self.seeds[scene] += 1
            self.running[scene] += 1
            return scene, self.seeds[scene]

    def add(self, life: Life) -> None:
        with self.lock:
            self.running[life.scene] -= 1
            self.lives.append(life)


def play_all(wanted: dict[str, int], workers: int, root: Path) -> Tally:
    """Play lives until every scene has had its kills."""
    tally = Tally(wanted)

    def work(number: int) -> None:
        worlds: dict[str, World] = {}
        try:
            while (chosen := tally.next()) is not None:
                scene, seed = chosen
                if scene not in worlds:
                    worlds[scene] = WORLDS[scene](root / f"worker-{number}" / scene)
                life = live(worlds[scene], seed)
                tally.add(life)
                for line in life.failures:
                    print(f"FAILED {line}", flush=True)
        finally:
            for world in worlds.values():
                world.close()

    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(work, n) for n in range(workers)]:
                future.result()
        finally:  # also on Ctrl-C: the lives that are being played end, and servers are removed
            tally.stopped = True
    return tally


def show(tally: Tally, skipped: dict[str, str], seconds: float) -> None:
    """Print the table, and of every failed life its steps."""
    for life in tally.lives:
        if life.failures:
            print(f"\n{life.scene} {life.seed}, again with: python tests/kill_scenes.py {life.scene} {life.seed}")
            print("\n".join(f"    {step}" for step in life.steps))
            print("\n".join(f"  ! {line}" for line in life.failures))
    names = [s.name for s in SIGNALS]
    print(f"\n{'scene':<16}{'lives':>6}{'kills':>7}" + "".join(f"{n:>9}" for n in names) + "   failed seeds")
    for scene in tally.wanted:
        lives = [life for life in tally.lives if life.scene == scene]
        kills = sum((life.kills for life in lives), Counter())
        failed = sorted(life.seed for life in lives if life.failures)
        listed = ", ".join(map(str, failed[:12])) + (f" and {len(failed) - 12} more" if len(failed) > 12 else "")
        print(
            f"{scene:<16}{len(lives):>6}{sum(kills.values()):>7}"
            + "".join(f"{kills[n]:>9}" for n in names)
            + f"   {listed or 'none'}"
        )
    for scene, reason in skipped.items():
        print(f"{scene:<16}skipped: {reason}")
    total = sum(sum(life.kills.values()) for life in tally.lives)
    print(f"{total} kills in {seconds:.0f} s, {sum(bool(life.failures) for life in tally.lives)} lives failed")


def main(words: list[str]) -> int:
    if words and words[0] not in WORLDS:
        print(f"no scene named {words[0]!r}; there are {', '.join(WORLDS)}", file=sys.stderr)
        return 2
    root = Path(tempfile.mkdtemp(prefix="tw-kills-"))
    try:
        if len(words) == 2:
            world = WORLDS[words[0]](root / "alone" / words[0])
            try:
                life = live(world, int(words[1]))
            finally:
                world.close()
            print("\n".join([*life.steps, *life.failures]))
            return bool(life.failures)
        share = int(os.environ.get("TUNEWRIGHT_KILLS") or sum(KILLS.values())) / sum(KILLS.values())
        chosen = {s: max(1, round(n * share)) for s, n in KILLS.items() if not words or s == words[0]}
        skipped = {s: reason for s in chosen if (reason := WORLDS[s].unavailable())}
        workers = int(os.environ.get("TUNEWRIGHT_KILL_WORKERS") or 2)
        if "machine" in chosen or "machine-apply" in chosen:  # there are settings of the machine for so many worlds
            workers = min(workers, 2)
        begun = time.monotonic()
        tally = play_all({s: n for s, n in chosen.items() if s not in skipped}, workers, root)
        show(tally, skipped, time.monotonic() - begun)
        short = [s for s, n in tally.wanted.items() if tally.done(s) < n]
        if short:
            print(f"too few kills hit their command before it ended by itself: {', '.join(short)}")
        return bool(short) or any(life.failures for life in tally.lives)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for ignored in (signal.SIGHUP, signal.SIGINT):  # by nohup, or by a shell's &: commands would ignore them, too
        signal.signal(ignored, signal.SIG_DFL if ignored == signal.SIGHUP else signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
