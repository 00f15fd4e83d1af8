"""One process of the target ``torch-train``: trains a small GPT and prints what it measured as one line of JSON.

Run as ``python -m tunewright.envs.parallelism.torchtrain_worker SETTINGS.json RANK``; the settings file says
everything,
and processes find each other through a file, so that no port is opened beyond loopback's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def build(settings: dict[str, Any], stage: int, stages: int) -> Any:
    """Return the module of a pipeline stage; of one stage it is the whole model."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint

    width, heads, vocab, seq = (settings[k] for k in ("hidden", "heads", "vocab", "seq"))
    manual = settings["attention"] == "manual"

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = self.qkv(self.first(x)).view(n, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            if manual:
                scores = q @ k.transpose(-2, -1) * (width // heads) ** -0.5
                mask = torch.triu(torch.full((t, t), float("-inf"), device=x.device, dtype=scores.dtype), 1)
                y = torch.softmax(scores + mask, -1) @ v
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(n, t, width))
            return x + self.down(F.gelu(self.up(self.second(x))))

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(settings["seed"])
            blocks = [
                Block() for _ in range(settings["layers"])
            ]  # all of them, so that each stage has the same weights
            tokens, places, head = (
                nn.Embedding(vocab, width),
                nn.Embedding(seq, width),
                nn.Linear(width, vocab, bias=False),
            )
            share = len(blocks) // stages
            self.blocks = nn.ModuleList(blocks[stage * share : (stage + 1) * share])
            if stage == 0:
                self.tokens, self.places = tokens, places
            if stage == stages - 1:
                self.norm, self.head = nn.LayerNorm(width), head

        def forward(self, x: Any) -> Any:
            if stage == 0:
                x = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if settings["checkpointing"] else block(x)
            return self.head(self.norm(x)) if stage == stages - 1 else x

    return Stage()


def batches(settings: dict[str, Any], device: Any) -> Any:
    """Return tokens of all steps, shape (steps, global batch, seq + 1): a chain with noise that can be learned."""
    import torch

    g = torch.Generator().manual_seed(settings["seed"] + 1)
    shape = (settings["steps"] + settings["warmup"], settings["global_batch"], settings["seq"] + 1)
    noise = torch.randint(0, settings["vocab"], shape, generator=g)
    chance = torch.rand(shape, generator=g) < 0.1
    out = noise.clone()
    for k in range(1, shape[2]):
        out[..., k] = torch.where(chance[..., k], noise[..., k], (out[..., k - 1] * 3 + 7) % settings["vocab"])
    return out.to(device)


def optimizer_of(settings: dict[str, Any], parameters: Any, sharded: bool) -> Any:
    """Return AdamW in the wanted implementation; sharded over the processes if wanted (ZeRO-1)."""
    import torch

    how = settings["optimizer"]
    flags = {"foreach": how == "foreach"} if how != "fused" else {"fused": True}
    if sharded:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(parameters, optimizer_class=torch.optim.AdamW, lr=1e-3, **flags)
    return torch.optim.AdamW(parameters, lr=1e-3, **flags)


def train(settings: dict[str, Any], rank: int) -> dict[str, Any]:
    """Train for a fixed number of steps and return what was measured."""
    import torch
    import torch.distributed as dist
    from torch.nn import functional as F

    torch.set_num_threads(settings["threads"])
    torch.set_num_interop_threads(settings["interop"])
    parallel = settings["parallel"]
    world = 1 if parallel == "single" else 2
    device = (
        torch.device(settings["device"], rank % max(torch.cuda.device_count(), 1))
        if settings["device"] == "cuda"
        else torch.device("cpu")
    )
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{settings['meeting']}", rank=rank, world_size=world)
    stages = 2 if parallel == "pp2" else 1
    stage = rank if stages == 2 else 0
    module = build(settings, stage, stages).to(device)
    model: Any = module
    if parallel == "dp2":
        model = torch.nn.parallel.DistributedDataParallel(module)
    if settings["compile"]:
        model = torch.compile(model)
    optimizer = optimizer_of(settings, module.parameters(), parallel == "dp2" and settings["sharding"])
    data = batches(settings, device)
    micro, batch = settings["micro_batch"], settings["global_batch"]
    mine = batch // 2 if parallel == "dp2" else batch
    offset = rank * mine if parallel == "dp2" else 0
    rounds = mine // micro
    mixed = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings["precision"] == "bf16")

    def loss_of(logits: Any, target: Any) -> Any:
        return F.cross_entropy(logits.float().reshape(-1, settings["vocab"]), target.reshape(-1))

    def part(step: int, k: int) -> Any:
        return data[step, offset + k * micro : offset + (k + 1) * micro]

    def whole_step(step: int) -> float:
        total = 0.0
        for k in range(rounds):
            rows = part(step, k)
            last = k == rounds - 1
            quiet = model.no_sync() if parallel == "dp2" and not last and not settings["compile"] else None
            if quiet:
                quiet.__enter__()
            with mixed:
                loss = loss_of(model(rows[:, :-1]), rows[:, 1:])
            (loss / rounds).backward()
            if quiet:
                quiet.__exit__(None, None, None)
            total += float(loss.detach()) / rounds
        return total

    def pipeline_step(step: int) -> float:
        """1F1B over two stages: the first is one micro-batch ahead."""
        shape, kind = (micro, settings["seq"], settings["hidden"]), torch.float32
        sent: list[Any] = []
        if stage == 0:
            held: list[Any] = []

            def back() -> None:
                gradient = torch.empty(shape, dtype=kind)
                dist.recv(gradient, 1)
                held.pop(0).backward(gradient.to(device))

            for k in range(rounds):
                with mixed:
                    out = model(part(step, k)[:, :-1]).float()
                held.append(out)
                sent.append(dist.isend(out.detach().cpu().contiguous(), 1))
                if k:
                    back()
            back()
            for s in sent:
                s.wait()
            return 0.0
        total = 0.0
        for k in range(rounds):
            inside = torch.empty(shape, dtype=kind)
            dist.recv(inside, 0)
            inside = inside.to(device).requires_grad_()
            with mixed:
                loss = loss_of(model(inside), part(step, k)[:, 1:])
            (loss / rounds).backward()
            assert inside.grad is not None
            sent.append(dist.isend(inside.grad.cpu().contiguous(), 0))
            total += float(loss.detach()) / rounds
        for s in sent:
            s.wait()
        return total

    losses, start = [], 0.0
    for step in range(settings["warmup"] + settings["steps"]):
        if step == settings["warmup"]:
            if world > 1:
                dist.barrier()
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        losses.append((pipeline_step if stages == 2 else whole_step)(step))
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    if world > 1:
        dist.barrier()
    seconds = time.perf_counter() - start
    loss = losses[-1]
    if world > 1:
        both = torch.tensor([loss if parallel == "dp2" or stage == 1 else 0.0])
        dist.all_reduce(both)
        loss = float(both) / (2 if parallel == "dp2" else 1)
        dist.destroy_process_group()
    return {"seconds": seconds, "loss": loss, "memory_bytes": _peak(device), "rank": rank}


def _peak(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Train and print the result."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ.setdefault(
        "GLOO_SOCKET_IFNAME", "lo"
    )  # processes meet on loopback, whatever the host's name resolves to
    result = train(settings, int(sys.argv[2]))
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the interpreter's end may find threads of gloo alive on a busy machine, and abort


if __name__ == "__main__":
    main()
