#!/usr/bin/env python3
"""Publishes a trigger and follows its events, with nothing but redis-py.

    pip install redis
    REDIS_URL=redis://127.0.0.1:PORT python3 examples/publish_trigger.py
"""

import json
import os
import uuid

import redis

EVENTS = "waooaw:{0}:events"
ENDS = {f"orchestration.task.{end}" for end in ("completed", "failed", "timeout", "cancelled")}

bus = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True)

# From where to read, before there is anything to miss.
newest = bus.xrevrange(EVENTS, count=1)
after = newest[0][0] if newest else "0-0"

# An id of one's own makes it safe to publish again: the same id gives the same task.
event_id = str(uuid.uuid4())
trigger = {
    "event_type": "orchestration.task.trigger",
    "source_agent": "publish-trigger-example",
    "event_id": event_id,
    "payload": json.dumps({"task_name": "add", "args": [40, 2], "priority": "HIGH"}),
}
bus.xadd("waooaw:triggers", trigger)
print("published", event_id)

while True:
    streams = bus.xread({EVENTS: after}, count=100, block=30_000)
    if not streams:
        raise SystemExit("no event for 30 s: does a replica run?")
    for after, event in streams[0][1]:
        payload = json.loads(event["payload"])
        if payload.get("trigger_event_id") != event_id:
            continue
        print(event["timestamp"], event["event_type"], payload.get("result", payload.get("errors", "")))
        if event["event_type"] in ENDS or event["event_type"] == "orchestration.trigger.rejected":
            raise SystemExit(0 if event["event_type"].endswith(".completed") else 1)
