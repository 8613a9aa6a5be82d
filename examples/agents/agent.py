"""What the agents of this folder have in common, with nothing but the standard library.

An agent reads assignments from its inbox, a Redis Stream, and answers on the stream of commands. This module speaks just
enough of the Redis protocol for that; with redis-py it is `xreadgroup` and `xadd`.
"""

import json
import os
import socket
import threading
import time
from urllib.parse import urlparse


class Redis:
    """A connection: `command` sends words and answers what Redis answers."""

    def __init__(self, url):
        place = urlparse(url)
        self.socket = socket.create_connection((place.hostname, place.port or 6379), timeout=30)
        self.lines = self.socket.makefile("rb")
        if place.password:
            self.command("AUTH", *filter(None, [place.username, place.password]))

    def command(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return self.answer()

    def answer(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.lines.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]
        return rest.decode()


def say(bus, agent, kind, assignment, **payload):
    """Puts word of an attempt on the bus."""
    payload = {"task_id": assignment["task_id"], "attempt": assignment["attempt"], **payload}
    event = ["event_type", f"orchestration.task.{kind}", "source_agent", agent, "payload", json.dumps(payload)]
    bus.command("XADD", "waooaw:commands", "*", *event)


def beat(url, agent, assignment, done):
    """Says every few seconds that the attempt goes on, until it is done; silence for a minute means that it is lost."""
    bus, began = Redis(url), time.time()
    while not done.wait(5):
        say(bus, agent, "heartbeat", assignment, progress={"seconds": round(time.time() - began)})


def serve(agent, work):
    """Carries out what comes into the inbox of `agent`: `work` takes an assignment and returns its result."""
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
    bus, inbox = Redis(url), f"waooaw:{{0}}:agent:{agent}"
    try:
        bus.command("XGROUP", "CREATE", inbox, agent, "0", "MKSTREAM")
    except RuntimeError as error:
        if "BUSYGROUP" not in str(error):  # it exists, which is as good
            raise
    print(f"{agent} reads {inbox}", flush=True)
    # First what a process before this one had read and not answered: after a crash nothing waits for its minute of silence.
    # Several processes of one agent need names of their own here, and then take over with XAUTOCLAIM.
    after = "0"
    while True:
        found = bus.command("XREADGROUP", "GROUP", agent, "main", "COUNT", 1, "BLOCK", 5000, "STREAMS", inbox, after)
        entries = found[0][1] if found else []
        if not entries:
            after = ">"
            continue
        for entry, fields in entries:
            event = dict(zip(fields[::2], fields[1::2])) if fields else {}
            if after != ">":
                after = entry
            if event.get("event_type") != "orchestration.task.assigned":
                # Word that a task was cancelled, or an entry whose attempt is over: nothing here runs any more.
                bus.command("XACK", inbox, agent, entry)
                continue
            assignment = json.loads(event["payload"])
            print(f"{agent} carries out {assignment['name']}, attempt {assignment['attempt']}", flush=True)
            done = threading.Event()
            threading.Thread(target=beat, args=(url, agent, assignment, done), daemon=True).start()
            try:
                # A pause in which something would be done.
                time.sleep(float(os.environ.get("WORK_SECONDS", "0")))
                result = work(assignment)
            except ValueError as error:
                # What will not be otherwise next time is not retried.
                error = {"type": type(error).__name__, "message": str(error)}
                say(bus, agent, "result", assignment, status="failed", error=error, retryable=False)
            except Exception as error:
                error = {"type": type(error).__name__, "message": str(error)}
                say(bus, agent, "result", assignment, status="failed", error=error)
            else:
                say(bus, agent, "result", assignment, status="completed", result=result)
            finally:
                done.set()
