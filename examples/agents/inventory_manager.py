#!/usr/bin/env python3
"""Reserves the items of a checked order. The checked order is what the task before it found."""

from agent import serve


def reserve(assignment):
    order = assignment["inputs"]["validate-order"]
    reserved = {item["sku"]: item["quantity"] for item in order["items"]}
    return {"order_id": order["order_id"], "total_cents": order["total_cents"], "reserved": reserved}


serve("inventory-manager", reserve)
