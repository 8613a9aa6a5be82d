#!/usr/bin/env python3
"""A handler of kind `http` with nothing but the standard library: adds up the prices of an order.

    python3 examples/handlers/service.py 9000
"""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "whsec_YW4gZXhhbXBsZSwgbm90IGEgc2VjcmV0"

# What was answered, by task: the same task may come again after a crash or a broken connection. A real service keeps
# this where it keeps what it did.
answers = {}


def is_signed(headers, body):
    """Whether the body came from a runtime that knows the secret, not more than five minutes ago."""
    timestamp = headers.get("webhook-timestamp", "0")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > 300:
        return False
    signed = f"{headers.get('webhook-id')}.{timestamp}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # There may be several, while a secret is being replaced.
    return any(hmac.compare_digest(expected, one) for one in headers.get("webhook-signature", "").split())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not is_signed(self.headers, body):
            return self.answer(401, {"problem": "not signed"})  # permanent: the task fails at once
        task = json.loads(body)
        if task["task_id"] in answers:
            return self.answer(200, answers[task["task_id"]])
        items = task["kwargs"].get("items")
        if not items:
            return self.answer(422, {"problem": "an order needs items"})  # permanent as well
        result = {"total": round(sum(items), 2), "attempt": task["attempt"]}
        answers[task["task_id"]] = result
        self.answer(200, result)

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    print(f"listening on 127.0.0.1:{port}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
