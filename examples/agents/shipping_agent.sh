#!/bin/sh
# Ships an order that is paid: an agent out of redis-cli and sed.
#
#   REDIS_URL=redis://127.0.0.1:6379 sh examples/agents/shipping_agent.sh
set -u
REDIS_URL=${REDIS_URL:-redis://127.0.0.1:6379}
AGENT=shipping-agent
INBOX="waooaw:{0}:agent:$AGENT"

bus() { redis-cli -u "$REDIS_URL" --raw "$@"; }

say() { bus XADD waooaw:commands '*' event_type "orchestration.task.$1" source_agent "$AGENT" payload "$2" >/dev/null; }

# It may exist already, which is as good.
bus XGROUP CREATE "$INBOX" "$AGENT" 0 MKSTREAM >/dev/null 2>&1
echo "$AGENT reads $INBOX"

# First what a process before this one had read and not answered, then what is new.
after=0
while :; do
  reply=$(bus XREADGROUP GROUP "$AGENT" main COUNT 1 BLOCK 5000 STREAMS "$INBOX" "$after") || { sleep 1; continue; }
  entry=$(printf '%s\n' "$reply" | sed -n '2p')
  if [ -z "$entry" ]; then
    after='>'
    continue
  fi
  [ "$after" = '>' ] || after=$entry
  payload=$(printf '%s\n' "$reply" | sed -n '/^payload$/{n;p;q;}')
  task=$(printf '%s' "$payload" | sed -n 's/^{"task_id":"\([^"]*\)","attempt":\([0-9]*\),.*/"task_id":"\1","attempt":\2/p')
  case $reply in
  *orchestration.task.assigned*) ;;
  *)
    # Word that a task was cancelled: nothing here runs any more.
    bus XACK "$INBOX" "$AGENT" "$entry" >/dev/null
    continue
    ;;
  esac
  order=$(printf '%s' "$payload" | sed -n 's/.*"process-payment":{"order_id": *"\([^"]*\)".*/\1/p')
  echo "$AGENT ships ${order:-nothing}"
  say heartbeat "{$task,\"progress\":\"packing\"}"
  sleep "${WORK_SECONDS:-0}"
  if [ -n "$order" ]; then
    say result "{$task,\"status\":\"completed\",\"result\":{\"order_id\":\"$order\",\"tracking\":\"WX-$order\"}}"
  else
    say result "{$task,\"status\":\"failed\",\"retryable\":false,\"error\":{\"type\":\"unpaid\",\"message\":\"no order was paid\"}}"
  fi
done
