"""An OpenAI-compatible endpoint on loopback that answers from a script, over real HTTP, streamed where that is asked for."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """Answers the requests in order from a script; keeps what was asked.

    A step is a dict (a message), a number (an HTTP error), "cut" (a broken connection), "cut stream" (in the middle of a
    reply), "silent end" (a stream that ends too early, in order), "slow", a text (the raw body), or a function from the
    request to a message, which answers from then on.
    """

    def __init__(self, script):
        self.script, self.asked = list(script), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                step = outer.script.pop(0) if outer.script else 500
                if callable(step):
                    outer.script.insert(0, step)
                    step = step(outer.asked[-1])
                if isinstance(step, dict) and outer.asked[-1].get("stream"):
                    return self.stream(step, "")
                if step in ("cut stream", "silent end"):
                    return self.stream(proposal(stripe_count=3), step)
                if step == "cut":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{")
                    self.close_connection = True
                    return
                if step == "slow":
                    time.sleep(1.5)
                    self.close_connection = True
                    return
                body = b'{"error": {"message": "no"}}'
                if isinstance(step, dict):
                    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
                    reason = "tool_calls" if step.get("tool_calls") else "stop"
                    body = json.dumps({
                        "id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage,
                        "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", **step}}],
                    }).encode()  # fmt: skip
                elif isinstance(step, str):
                    body = step.encode()
                self.send_response(step if isinstance(step, int) else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def stream(self, message, how):
                """The message in pieces, as endpoints stream them."""
                usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
                pieces = [{"role": "assistant", "content": message.get("content") or ""}]
                for k, made in enumerate(message.get("tool_calls") or []):
                    named = {**made, "index": k, "function": {"name": made["function"]["name"], "arguments": ""}}
                    pieces.append({"tool_calls": [named]})
                    raw = made["function"]["arguments"]
                    for part in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
                        pieces.append({"tool_calls": [{"index": k, "function": {"arguments": part}}]})
                reason = "tool_calls" if message.get("tool_calls") else "stop"
                chunks = [{"choices": [{"index": 0, "delta": p, "finish_reason": None}]} for p in pieces]
                chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
                chunks.append({"choices": [], "usage": usage})
                if how:
                    chunks = chunks[:2]
                head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
                lines = [b"data: " + json.dumps({**head, **c}).encode() + b"\n\n" for c in chunks]
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                if how == "cut stream":
                    self.send_header("Content-Length", "99999")
                self.end_headers()
                self.wfile.write(b"".join(lines) + (b"" if how else b"data: [DONE]\n\n"))
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


def call(name, arguments, number=1):
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"content": None, "tool_calls": [{"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": raw}}]}  # fmt: skip


def proposal(**values):
    return call("propose", {"changes": {n: {"value": v, "reason": f"{n} helps"} for n, v in values.items()}})
