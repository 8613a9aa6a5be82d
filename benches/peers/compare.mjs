// Medians of what the runs of both found, side by side.
//
// usage: node compare.mjs FOLDER     with bullmq-N.json, and throughput-N.json, latency-N.json, chain-N.json, fan-N.json of ours
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = process.argv[2];
const runs = name => readdirSync(folder)
  .filter(file => new RegExp(`^${name}-[0-9]+\\.json$`).test(file))
  .map(file => JSON.parse(readFileSync(join(folder, file), 'utf8')));

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 ? sorted[middle - 0.5] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const peer = runs('bullmq');
const ours = Object.fromEntries(['throughput', 'latency', 'chain', 'fan'].map(name => [name, runs(name).map(run => run[name])]));

// What is compared, whether more is better, how ours and the peer's say it.
const rows = [
  ['tasks added in bulk, per second', true, ours.throughput.map(run => run.created.tasks_per_second), peer.map(run => run.created_per_s)],
  ['waiting tasks run, per second', true, ours.throughput.map(run => run.drained.tasks_per_second), peer.map(run => run.drained_per_s)],
  ['Redis CPU for both, us a task', false,
    ours.throughput.map(run => run.created.redis_cpu_us_per_task + run.drained.redis_cpu_us_per_task), peer.map(run => run.redis_cpu_us_per_task)],
  ['added to started at 200/s, p50, ms', false, ours.latency.map(run => run.trigger_to_start.p50_ms), peer.map(run => run.start_p50_ms)],
  ['added to started at 200/s, p99, ms', false, ours.latency.map(run => run.trigger_to_start.p99_ms), peer.map(run => run.start_p99_ms)],
  ['chain of 1,000, s', false, ours.chain.map(run => run.start_event_to_completed_ms / 1000), peer.map(run => run.chain_s)],
  ['1 -> 1,000 -> 1, s', false, ours.fan.map(run => run.start_event_to_completed_ms / 1000), peer.map(run => run.fan_s)],
];

const text = value => value >= 1000 ? Math.round(value).toLocaleString('en') : value.toPrecision(3);
const line = cells => console.log(cells[0].padEnd(38) + cells.slice(1).map(cell => cell.padStart(12)).join(''));
line(['', 'waooaw', 'BullMQ', 'better by']);
for (const [name, isMoreBetter, mine, theirs] of rows) {
  const [a, b] = [median(mine), median(theirs)];
  line([name, text(a), text(b), `${(isMoreBetter ? a / b : b / a).toFixed(1)}x`]);
}
