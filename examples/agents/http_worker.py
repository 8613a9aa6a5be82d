#!/usr/bin/env python3
"""A worker outside the runtime that speaks HTTP alone: claims tasks of one name, says that it is at work, ends them.

    WAOOAW_URL=http://127.0.0.1:8001 python3 examples/agents/http_worker.py
    waooaw trigger word_count --args '["to be or not to be"]' --wait

Where the service asks for a token, one of the role `trigger` goes into WAOOAW_TOKEN.
"""

import collections
import json
import os
import threading
import urllib.error
import urllib.request

URL = os.environ.get("WAOOAW_URL", "http://127.0.0.1:8001")
WORKER = os.environ.get("WORKER_ID", "word-counter")


def post(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    if "WAOOAW_TOKEN" in os.environ:
        request.add_header("Authorization", "Bearer " + os.environ["WAOOAW_TOKEN"])
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def beat(task, body, done):
    """Says every few seconds that the attempt goes on, until it is done or over."""
    while not done.wait(2):
        try:
            post(f"/v1/tasks/{task}/heartbeat", body)
        except urllib.error.HTTPError as refused:
            print("over:", json.load(refused).get("detail"), flush=True)
            return


print(WORKER, "claims", flush=True)
while True:
    claim = {"worker_id": WORKER, "max": 1, "task_names": ["word_count"], "wait_seconds": 20, "heartbeat_timeout_seconds": 10}
    try:
        assignments = post("/v1/queues/default/claim", claim)["items"]
    except (urllib.error.URLError, OSError) as problem:
        print("can not claim:", problem, flush=True)
        threading.Event().wait(1)
        continue
    for assignment in assignments:
        task, body = assignment["task_id"], {"worker_id": WORKER, "attempt": assignment["attempt"]}
        done = threading.Event()
        threading.Thread(target=beat, args=(task, body, done), daemon=True).start()
        threading.Event().wait(float(os.environ.get("WORK_SECONDS", "0")))
        try:
            if assignment["args"] and isinstance(assignment["args"][0], str):
                counts = collections.Counter(assignment["args"][0].split())
                post(f"/v1/tasks/{task}/complete", {**body, "result": dict(counts)})
            else:
                error = {"type": "no_text", "message": "the first argument is no text"}
                post(f"/v1/tasks/{task}/fail", {**body, "error": error, "retryable": False})
        except urllib.error.HTTPError as refused:
            # Too late: the attempt was lost or cancelled, and what it did counts for nothing.
            print("refused:", json.load(refused).get("detail"), flush=True)
        finally:
            done.set()
