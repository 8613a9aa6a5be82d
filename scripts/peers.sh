#!/bin/sh
# Measures `waooaw bench` and a peer, BullMQ, in turn on this machine, and prints medians side by side.
#
# usage: peers.sh WAOOAW [ROUNDS [TASKS]]     the program, how often both are measured (3), jobs of a throughput run (10000)
#
# Each run has a Redis of its own with the append-only file on. Not the same is done: `waooaw` writes every step to the log,
# hands results on and checks all of it against the log; BullMQ's worker says when a job has ended. BullMQ comes from npm, once,
# into a folder beside the program. With PEERS_OPTIONAL=1 a machine without npm, or without a way to its registry, is no failure.
set -eu

waooaw=${1:?usage: peers.sh WAOOAW [ROUNDS [TASKS]]}
rounds=${2:-3}
tasks=${3:-10000}
top=$(cd "$(dirname "$0")/.." && pwd)
server=$(sh "$top/scripts/get-redis.sh")
folder=$(mktemp -d)
redis=

clean_up() {
    if [ -n "$redis" ]; then
        kill "$redis" 2>/dev/null || true
        wait "$redis" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# leave_out WHY: ends well where the measurement is optional, badly where it was asked for.
leave_out() {
    echo "peers: $1" >&2
    if [ "${PEERS_OPTIONAL:-}" = 1 ]; then
        echo "peers: left out" >&2
        exit 0
    fi
    exit 1
}

command -v npm >/dev/null 2>&1 || leave_out "there is no npm; on Debian: apt-get install nodejs npm, on macOS: brew install node"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' || leave_out "node $(node --version) is older than BullMQ wants, 20"
tools=$(cd "$(dirname "$waooaw")" && pwd)/peers
mkdir -p "$tools"
cp "$top"/benches/peers/* "$tools/"
if ! cmp -s "$tools/package-lock.json" "$tools/node_modules/installed.json"; then
    (cd "$tools" && npm ci --ignore-scripts --no-audit --no-fund >&2) || leave_out "BullMQ can not be had from npm"
    cp "$tools/package-lock.json" "$tools/node_modules/installed.json"
fi

port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')

round=1
while [ "$round" -le "$rounds" ]; do
    echo "round $round of $rounds: BullMQ" >&2
    mkdir "$folder/redis-$round"
    "$server" --bind 127.0.0.1 --port "$port" --dir "$folder/redis-$round" --save "" --appendonly yes --appendfsync everysec \
        --auto-aof-rewrite-percentage 0 >"$folder/redis.log" 2>&1 &
    redis=$!
    node "$tools/bullmq.mjs" "$port" "$tasks" >"$folder/bullmq-$round.json"
    kill "$redis"
    wait "$redis" 2>/dev/null || true
    redis=
    echo "round $round of $rounds: waooaw" >&2
    "$waooaw" bench throughput --tasks "$tasks" --output json --quiet >"$folder/throughput-$round.json"
    "$waooaw" bench latency --seconds 5 --workers 100 --output json --quiet >"$folder/latency-$round.json"
    "$waooaw" bench chain --output json --quiet >"$folder/chain-$round.json"
    "$waooaw" bench fan --output json --quiet >"$folder/fan-$round.json"
    round=$((round + 1))
done
node "$tools/compare.mjs" "$folder"
