"""A stand-in for an engine: its options by --help, a server whose steps take known times. Run as a program.

One iteration: a prompt's tokens cost ``TOKEN_S`` each, every sequence that decodes ``EACH_S``, and ``FIXED_S`` at all; a
budget of tokens and of sequences limits it, as in vLLM. What a request costs beside that is ``REQUEST_S``.
"""

import argparse
import asyncio
import json
import sys

FIXED_S, EACH_S, TOKEN_S, REQUEST_S = 0.004, 0.0005, 0.00005, 0.002


def parser():
    made = argparse.ArgumentParser(prog="engine")
    for name, kind in (("--model", str), ("--host", str), ("--port", int), ("--max-model-len", int)):
        made.add_argument(name, type=kind, default=4096 if kind is int else "127.0.0.1", help="(default: %(default)s)")
    group = made.add_argument_group("SchedulerConfig")
    group.add_argument("--max-num-seqs", type=int, default=8, help="Sequences at most. (default: %(default)s)")
    group.add_argument("--max-num-batched-tokens", type=int, default=512, help="Tokens. (default: %(default)s)")
    on_off = {"action": argparse.BooleanOptionalAction}
    group.add_argument("--enable-chunked-prefill", default=True, help="Parts of prompts. (default: True)", **on_off)
    group.add_argument("--scheduling-policy", choices=["fcfs", "priority"], default="fcfs", help="(default: fcfs)")
    return made


class Engine:
    def __init__(self, options):
        self.options, self.waiting, self.running, self.wake = options, [], [], asyncio.Event()

    async def steps(self):
        while True:
            while self.waiting and len(self.running) < self.options.max_num_seqs:
                self.running.append(self.waiting.pop(0))
            if not self.running:
                self.wake.clear()
                await self.wake.wait()
                continue
            budget, decodes, tokens = self.options.max_num_batched_tokens, 0, 0
            for request in self.running:
                if request["left"] == 0:
                    decodes, budget = decodes + 1, budget - 1
            for request in self.running:
                request["now"] = min(request["left"], max(budget, 0))
                budget, tokens = budget - request["now"], tokens + request["now"]
            began = [r for r in self.running if r["left"] == 0]
            await asyncio.sleep(FIXED_S + EACH_S * decodes + TOKEN_S * tokens)
            for request in self.running:
                if request in began or (request["left"] > 0 and request["left"] == request["now"]):
                    request["tokens"].put_nowait("a")
                    request["output"] -= 1
                request["left"] -= request["now"]
            self.running = [r for r in self.running if r["output"] > 0]


def main():
    options = parser().parse_args()
    if options.max_num_seqs == 13:
        sys.exit("ValueError: thirteen sequences are not supported")
    from aiohttp import web

    async def serve():
        engine = Engine(options)

        async def completions(request):
            body = await request.json()
            if len(body["prompt"]) + body["max_tokens"] > options.max_model_len:
                return web.json_response({"error": {"message": "too long"}}, status=400)
            await asyncio.sleep(REQUEST_S)
            its = {"left": len(body["prompt"]), "output": body["max_tokens"], "tokens": asyncio.Queue()}
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            engine.waiting.append(its)
            engine.wake.set()
            for nth in range(body["max_tokens"]):
                text = await its["tokens"].get()
                done = "length" if nth == body["max_tokens"] - 1 else None
                event = {"choices": [{"text": text, "finish_reason": done}]}
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
            return response

        async def models(_):
            return web.json_response({"data": [{"id": "m", "max_model_len": options.max_model_len}]})

        async def told(_):
            return web.Response(text='vllm:cache_config_info{block_size="16",num_gpu_blocks="4096"} 1.0\n')

        async def health(_):
            return web.Response()

        app = web.Application()
        app.router.add_post("/v1/completions", completions)
        app.router.add_get("/v1/models", models)
        app.router.add_get("/metrics", told)
        app.router.add_get("/health", health)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, options.host, options.port).start()
        await engine.steps()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
