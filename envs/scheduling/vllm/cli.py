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
_CAPACITY_LEAST = 0.01  # of what the server does at most
SHARE_OF_MOST = 0.75  # of what a server does at most: busy, and its queue still ends


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
        url=url, model=model, api=api, key=os.environ.get("OPENAI_API_KEY", ""), vocabulary=vocabulary, exact=exact,
        timeout_s=timeout_s,
    )  # fmt: skip
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
        _write(write_rate, f"{SHARE_OF_MOST * document['metrics']['throughput_requests_per_s']:.6g}\n")
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
    most = served(requests, clients=min(len(requests), 64))["throughput_requests_per_s"]
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

    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("arrival_s", "sent_s", "first_s", "last_s", "input_tokens", "output_tokens", "error"))
    for each, prompt in zip(loaded.sent, requests.prompt.tolist(), strict=True):
        at = each.answer.at_s
        ends = (f"{at[0]:.6f}", f"{at[-1]:.6f}") if at else ("", "")
        rows.writerow((f"{each.due_s:.6f}", f"{each.sent_s:.6f}", *ends, prompt, each.answer.tokens, each.error))
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    from tunewright.errors import ConfigError

    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


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
