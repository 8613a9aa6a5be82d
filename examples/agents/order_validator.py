#!/usr/bin/env python3
"""Checks that an order makes sense, and adds it up. The order is the metadata of the task."""

from agent import serve


def validate(assignment):
    order = assignment["metadata"]
    if not order.get("items"):
        raise ValueError(f"order {order.get('order_id')} has no items")
    total = sum(item["quantity"] * item["cents"] for item in order["items"])
    return {"order_id": order["order_id"], "items": order["items"], "total_cents": total}


serve("order-validator", validate)
