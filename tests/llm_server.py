"""A server that streams completions as told: for tests of clients, on a port of the loopback, in a thread."""

import asyncio
import json
import threading

from aiohttp import web


class Told:
    """A context manager; ``url`` is its address.

    Args:
        first_s: until the first token.
        each_s: of each further token.
        slots: requests served at once; others wait.
        fault: what goes wrong: "429", "503", "garbage", "stop", "error", "silent", "empty".
        faulty: which requests, from 0; None for all.
    """

    def __init__(self, *, first_s=0.01, each_s=0.005, slots=1000, fault="", faulty=None):
        self.first_s, self.each_s, self.slots, self.fault, self.faulty = first_s, each_s, slots, fault, faulty
        self.asked = []

    async def _completions(self, request):
        body = await request.json()
        number = len(self.asked)
        self.asked.append((request.headers.get("Authorization"), body))
        fault = self.fault if self.faulty is None or number in self.faulty else ""
        if fault in ("429", "503"):
            return web.json_response({"error": {"message": "slow down"}}, status=int(fault))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chat = "messages" in body
        async with self.free:
            if fault == "silent":
                await asyncio.sleep(60)
            if fault == "garbage":
                await response.write(b"data: <html>no</html>\n\n")
                return response
            if fault == "error":
                await response.write(b'data: {"error": {"message": "out of memory"}}\n\n')
                return response
            count = 0 if fault == "empty" else body["max_tokens"]
            if chat:
                await self._event(response, {"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]})
            for nth in range(count):
                await asyncio.sleep(self.first_s if nth == 0 else self.each_s)
                if fault == "stop" and nth == 2:
                    request.transport.close()
                    return response
                part = {"delta": {"content": "a"}} if chat else {"text": "a"}
                done = "length" if nth == count - 1 else None
                await self._event(response, {"choices": [{**part, "finish_reason": done}]})
        usage = {"prompt_tokens": 5, "completion_tokens": count}
        await self._event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response, event):
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    async def _models(self, request):
        return web.json_response({"data": [{"id": "told"}]})

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def start():
            self.free = asyncio.Semaphore(self.slots)
            app = web.Application()
            app.router.add_post("/v1/completions", self._completions)
            app.router.add_post("/v1/chat/completions", self._completions)
            app.router.add_get("/v1/models", self._models)
            self.runner = web.AppRunner(app, shutdown_timeout=0.2, handler_cancellation=True)
            await self.runner.setup()
            site = web.TCPSite(self.runner, "127.0.0.1", 0)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
            ready.set()

        def serve():
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(start())
            self.loop.run_forever()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc):
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
