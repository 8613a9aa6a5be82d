#!/usr/bin/env python3
"""Takes the payment of an order whose items are reserved.

An attempt may come twice, and a task may have more than one. What moves money does so under the task's id, which is the same
each time: the payments made are kept in a file, as a real processor would keep them at the bank's.
"""

import json
import os

from agent import serve

LEDGER = os.environ.get("LEDGER", "payments.json")


def charge(assignment):
    order = assignment["inputs"]["check-inventory"]
    payments = {}
    if os.path.exists(LEDGER):
        with open(LEDGER) as ledger:
            payments = json.load(ledger)
    if assignment["task_id"] not in payments:
        payments[assignment["task_id"]] = order["total_cents"]
        with open(LEDGER + ".new", "w") as ledger:
            json.dump(payments, ledger)
        os.replace(LEDGER + ".new", LEDGER)
    return {"order_id": order["order_id"], "paid_cents": payments[assignment["task_id"]]}


serve("payment-processor", charge)
