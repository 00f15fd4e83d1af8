"""The command ``tunewright load``: a load on an OpenAI-compatible server, and what it can carry."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, command, console
from tunewright.envs.scheduling.cli import Parameter, texts_of

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.envs.scheduling.serving.requests import Requests
    from tunewright.envs.scheduling.vllm import client

app = typer.Typer()
calibrating = typer.Typer(help="Measure what a simulator needs to know of a real system.", no_args_is_help=True)
_CAPACITY_LEAST = 0.01  # of what the server does at most


def _show(screen: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    screen.print(Text(f"{document['server']}: {document['load']}", style="bold"))
    if "capacity_requests_per_s" in document:
        rows = table(
            "rate [requests/s]", "good requests", "tries", numbers=("rate [requests/s]", "good requests", "tries")
        )
        for probe in sorted(document["probes"], key=lambda p: p["rate"]):
            rows.add_row(f"{probe['rate']:.3g}", f"{100 * probe['share']:.1f} %", str(probe["tries"]))
        screen.print(rows)
        found = document["capacity_requests_per_s"]
        screen.print(Text(f"capacity: {found:.3g} requests/s" if found else "no rate keeps the limits", style="bold"))
        return
    metrics = document["metrics"]
    columns = ("mean", "p50", "p90", "p99")
    rows = table("[ms]", *columns, numbers=columns)
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("itl_s", "ITL"), ("response_s", "response")):
        cells = ("" if metrics[name][c] is None else f"{1e3 * metrics[name][c]:,.1f}" for c in columns)
        rows.add_row(label, *cells)
    screen.print(rows)
    screen.print(
        f"{metrics['requests']:,} requests in {metrics['seconds']:.1f} s, {metrics['failed']} failed ·"
        f" {metrics['throughput_requests_per_s']:.3g} requests/s, {metrics['throughput_tokens_per_s']:,.0f} tokens/s ·"
        f" goodput {metrics['goodput_requests_per_s']:.3g} requests/s ({100 * metrics['good_share']:.0f} % good)",
        highlight=False,
    )
    for words in document["notes"]:
        screen.print(Text(words, style="yellow"))


@command(app, "load", _show)
def load(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the server, such as http://127.0.0.1:8000.")],
    trace: Annotated[str, Option(
        "--trace", "-t", metavar="TRACE", help="What is asked, and when: Azure's CSV, Mooncake's JSON lines, "
        "BurstGPT's CSV, any CSV with columns arrival_s, input_tokens, output_tokens; or synthetic:KIND (see 'simulate "
        "serving'), with -O.")] = "synthetic:chat",
    options: Parameter = None,
    limit: Annotated[int, Option("--requests", "-n", min=0, help="Only the first N requests; 0: all.")] = 200,
    rate: Annotated[float, Option("--rate", min=0.0, help="Mean requests a second; 0: as the trace says.")] = 0.0,
    closed: Annotated[int, Option(
        "--closed", metavar="CLIENTS", min=0, help="So many clients who send their next request when they have the "
        "answer to the last; 0: requests come when the trace says, however slow the server is.")] = 0,
    shrink: Annotated[float, Option(
        "--shrink", min=1.0, help="Divide the tokens of prompts and answers by this, for small machines.")] = 1.0,
    ttft_s: Annotated[float, Option("--ttft", metavar="SECONDS", help="Limit on the time to the first token.")] = 2.0,
    tpot_s: Annotated[float, Option("--tpot", metavar="SECONDS", help="Limit on the time of a further token.")] = 0.1,
    capacity: Annotated[bool, Option(
        "--capacity", help="Search the highest rate at which --share of the requests are good.")] = False,
    share: Annotated[float, Option("--share", help="Of good requests, for --capacity.")] = 0.9,
    model: Annotated[str, Option("--model", metavar="NAME", help="To ask for; default: the first it serves.")] = "",
    api: Annotated[str, Option(
        "--api", help="completions (prompts are numbers of tokens) or chat (text).")] = "completions",
    vocabulary: Annotated[int, Option("--vocabulary", min=2, help="Tokens are drawn below this number.")] = 1000,
    exact: Annotated[bool, Option(
        "--exact/--natural", help="Answers as long as the trace's (vLLM, SGLang), or as the model ends.")] = True,
    warmup: Annotated[int, Option("--warmup", min=0, help="Requests before, not counted.")] = 4,
    timeout_s: Annotated[float, Option("--timeout", metavar="SECONDS", min=0.1, help="Limit of a request.")] = 300.0,
    seed: Annotated[int, Option("--seed", min=0, help="Of generated work, and of the prompts.")] = 0,
    rate_file: Annotated[Path | None, Option(
        "--rate-file", metavar="FILE", help="Take --rate from a file that --write-rate wrote.")] = None,
    write_rate: Annotated[Path | None, Option(
        "--write-rate", metavar="FILE", help="With --closed: write three quarters of the requests a second that were "
        "served into a file, as a rate that loads this server and that it carries.")] = None,
    save: Annotated[Path | None, Option("--save", metavar="FILE", help="Write a CSV with a row a request.")] = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Load an OpenAI-compatible server and print TTFT, TPOT, throughput and goodput.

    The key of a server that needs one is taken from OPENAI_API_KEY.

    Examples:
        tunewright load http://127.0.0.1:8000 --rate 4
        tunewright load http://127.0.0.1:8000 --closed 16 --requests 300
        tunewright load http://127.0.0.1:8000 --capacity --ttft 1 --tpot 0.05
    """
    from tunewright.envs.scheduling import limits
    from tunewright.envs.scheduling.serving.trace import load as read_load
    from tunewright.envs.scheduling.vllm import client
    from tunewright.envs.scheduling.vllm import load as loads
    from tunewright.errors import ConfigError
    from tunewright.store.outputs import check_output, write_text

    limits.check(ttft=ttft_s, tpot=tpot_s, error=0.0)
    if not re.match(r"https?://[^/]", url):
        raise ConfigError(f"{url!r} is no address of a server; write it as http://HOST:PORT")
    if api not in ("completions", "chat"):
        raise ConfigError(f"--api is completions or chat, not {api!r}")
    if capacity and closed:
        raise ConfigError("--capacity searches a rate, which --closed does not have; give one of them")
    if write_rate is not None and not closed:
        raise ConfigError("--write-rate writes what so many --closed clients reach; give these, too")
    if rate_file is not None:
        rate = _read_rate(rate_file)
    given = texts_of(options, "-O")
    if trace.startswith("synthetic:") and "requests" not in given and limit:
        given["requests"] = str(limit)
    requests = read_load(trace, given, seed)
    requests = _shrunk(requests.first(limit) if limit else requests, shrink)
    if rate:
        requests = loads.scaled(requests, rate)
    server = client.Server(
        url=url, model=model, api="chat" if api == "chat" else "completions", key=os.environ.get("OPENAI_API_KEY", ""),
        vocabulary=vocabulary, exact=exact, timeout_s=timeout_s,
    )  # fmt: skip
    for path in filter(None, (save, write_rate)):  # before what takes long
        check_output(path)
    server = client.known(server)
    if server.longest:
        requests = requests.within(server.longest)
    document: dict[str, Any] = {
        "server": server.base,
        "load": _words(requests, closed),
        "limits": {"ttft_s": ttft_s, "tpot_s": tpot_s},
    }
    if capacity:
        return {**document, **_capacity(server, requests, ttft_s, tpot_s, share, warmup, seed)}
    loaded = client.run(server, requests, clients=closed, warmup=warmup, salt=seed)
    loads.check(loaded)
    document["metrics"] = loads.metrics(loaded, ttft_s=ttft_s, tpot_s=tpot_s)
    document["notes"] = [*requests.notes, *loads.doubts(document["metrics"]), *loads.faults(loaded)]
    if write_rate is not None:
        write_text(write_rate, f"{loads.SHARE_OF_MOST * document['metrics']['throughput_requests_per_s']:.6g}\n")
    if save is not None:
        _save(save, loaded, requests)
    return document


def _shrunk(requests: Requests, factor: float) -> Requests:
    from dataclasses import replace

    import numpy as np

    if factor == 1.0:
        return requests
    fewer = {n: np.maximum(np.rint(getattr(requests, n) / factor), 1).astype(np.int64) for n in ("prompt", "output")}
    # shared chunks have one size, so they go where prompts are shrunk
    none = np.zeros(len(requests), np.int64)
    return replace(requests, **fewer, chunk_count=none, chunks=requests.chunks[:0])


def _words(requests: Requests, closed: int) -> str:
    how = f"{closed} clients" if closed else f"{(len(requests) - 1) / max(requests.duration_s, 1e-9):.3g} requests/s"
    return (
        f"{len(requests):,} requests of {requests.source}, {how},"
        f" {requests.prompt.mean():.0f} + {requests.output.mean():.0f} tokens in the mean"
    )


def _capacity(
    server: client.Server, requests: Requests, ttft_s: float, tpot_s: float, share: float, warmup: int, seed: int
) -> dict[str, Any]:
    from dataclasses import asdict

    from tunewright.envs.scheduling.vllm import client
    from tunewright.envs.scheduling.vllm import load as loads

    salt = seed

    def served(part: Requests, clients: int = 0) -> dict[str, Any]:
        nonlocal salt
        salt += 2
        loaded = client.run(server, part, clients=clients, warmup=warmup, salt=salt)
        loads.check(loaded)
        return loads.metrics(loaded, ttft_s=ttft_s, tpot_s=tpot_s)

    screen = console()
    most = served(requests, clients=min(len(requests), loads.CLIENTS))["throughput_requests_per_s"]
    found, probes = loads.capacity(
        lambda rate: float(served(loads.scaled(requests, rate))["good_share"]), start=most, share=share,
        least=_CAPACITY_LEAST * most,
        progress=lambda p: screen.print(f"{p.rate:.3g} requests/s: {100 * p.share:.0f} % good", highlight=False),
    )  # fmt: skip
    return {"capacity_requests_per_s": found, "most_requests_per_s": most, "share": share,
            "probes": [asdict(p) for p in probes], "notes": []}  # fmt: skip


def _save(path: Path, loaded: client.Loaded, requests: Requests) -> None:
    import csv
    import io

    from tunewright.store.outputs import write_text

    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("arrival_s", "sent_s", "first_s", "last_s", "input_tokens", "output_tokens", "error"))
    for each, prompt in zip(loaded.sent, requests.prompt.tolist(), strict=True):
        at = each.answer.at_s
        ends = (f"{at[0]:.6f}", f"{at[-1]:.6f}") if at else ("", "")
        rows.writerow((f"{each.due_s:.6f}", f"{each.sent_s:.6f}", *ends, prompt, each.answer.tokens, each.error))
    write_text(path, text.getvalue())


def _read_rate(path: Path) -> float:
    from tunewright.errors import ConfigError
    from tunewright.store.files import read_text

    text = read_text(path, "rate").strip()
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e9:
        raise ConfigError(f"{path} is no rate that --write-rate wrote: {text[:40]!r}")
    return rate


def _show_calibrated(screen: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    rows = table("iteration", "measured [ms]", "fitted [ms]", numbers=("measured [ms]", "fitted [ms]"))
    for row in document["rows"]:
        decodes, prompt = f"{row['decodes']:.0f} decode", f"{row['tokens']:.0f} tokens of a prompt"
        parts = [words for words, there in ((decodes, row["decodes"]), (prompt, row["tokens"])) if there]
        end = " (first token of a request)" if row["first"] else ""
        rows.add_row(", ".join(parts) + end, f"{1e3 * row['seconds']:.2f}", f"{1e3 * row['fitted_s']:.2f}")
    screen.print(rows)
    screen.print(
        f"median error of the fit {100 * document['error']:.1f} % · a request costs"
        f" {1e3 * document['request_s']:.1f} ms beside iterations · cache of {document['blocks']:,} blocks of"
        f" {document['block']} tokens", highlight=False,
    )  # fmt: skip
    screen.print(Text(f"written: {document['file']}", style="cyan"))


@calibrating.callback()
def _calibrate() -> None:
    """Keep ``serving`` a command of its own, beside others to come."""


@command(calibrating, "serving", _show_calibrated)
def calibrate_serving(
    url: Annotated[str, typer.Argument(
        metavar="[URL]", help="Of an engine that runs and that nothing else loads; else it is started.")] = "",
    out: Annotated[Path, Option("--out", "-o", metavar="FILE", help="Where the step times go.")] = Path("engine.json"),
    model: Annotated[str, Option("--model", metavar="DIR", help="To start an engine with; see 'show vllm'.")] = "",
    python: Annotated[str, Option("--python", metavar="FILE", help="Of the environment that has vLLM.")] = "",
    serve: Annotated[str, Option("--serve", metavar="COMMAND", help="That starts the engine, without port.")] = "",
    most_seqs: Annotated[int, Option("--max-seqs", min=1, help="Sequences of an iteration, as it is started.")] = 64,
    most_tokens: Annotated[int, Option("--max-tokens", min=64, help="Tokens of an iteration, likewise.")] = 2048,
    blocks: Annotated[int, Option(
        "--blocks", min=0, help="Of its cache; default: as its metrics say.")] = 0,
    block: Annotated[int, Option("--block", min=0, help="Tokens of each; likewise.")] = 0,
    rounds: Annotated[int, Option("--rounds", min=1, help="Every time is the median of so many.")] = 3,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Measure an engine's step times from outside and write them for 'simulate serving --engine FILE'.

    Examples:
        tunewright calibrate serving http://127.0.0.1:8000 --max-seqs 256 --max-tokens 8192
        tunewright calibrate serving --model DIR --python ENV/bin/python --out mine.json
    """
    from dataclasses import asdict

    from tunewright.envs.scheduling.vllm import calibrate, client
    from tunewright.envs.scheduling.vllm.target import open_target
    from tunewright.errors import ConfigError
    from tunewright.store.outputs import check_output

    screen = console()

    def measured(server: client.Server) -> tuple[calibrate.Calibrated, list[calibrate.Row]]:
        return calibrate.calibrate(
            server, rounds=rounds, most_seqs=most_seqs, most_tokens=most_tokens, blocks=blocks, block=block,
            progress=lambda words: screen.print(words, style="dim", highlight=False),
        )  # fmt: skip

    check_output(out)
    if bool(url) == bool(model or serve):
        raise ConfigError("give the URL of a running engine, or --model or --serve to start one")
    if url:
        found, rows = measured(client.Server(url=url, key=os.environ.get("OPENAI_API_KEY", "")))
    else:
        options = {"model": model, "python": python, "serve": serve}
        target = open_target("", {name: text for name, text in options.items() if text})
        its = {"max_num_seqs": most_seqs, "max_num_batched_tokens": most_tokens}
        config = {**target.space.default, **{n: v for n, v in its.items() if n in target.space.params}}
        screen.print("starting the engine", style="dim")
        found, rows = target.run(config, measured)
    calibrate.write(out, found)
    timed = [{**asdict(r), "fitted_s": calibrate.predicted(found.engine, found.request_s, r)} for r in rows]
    return {**asdict(found), "engine": found.engine._asdict(), "rows": timed, "file": str(out)}
