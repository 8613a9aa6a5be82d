// BullMQ at the same work as `waooaw bench`, on a Redis of its own: prints one JSON object.
//
// usage: node bullmq.mjs PORT TASKS
//
// One process adds the jobs and runs them, a hundred at a time, as BullMQ is used. Jobs do nothing. What is kept of ended
// jobs and events is what BullMQ keeps by itself.
import { FlowProducer, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';

const [port, tasks] = process.argv.slice(2).map(Number);
const connection = { host: '127.0.0.1', port, maxRetriesPerRequest: null };
const CONCURRENCY = 100;
const BULK = 1000;
const GRAPH = 1000;
const LATENCY_RATE = 200;
const LATENCY_SECONDS = 5;

// A Redis that does not come, or a job that never ends, must not hold up whoever waits for the numbers.
const LONGEST_MS = 300_000;
setTimeout(() => { console.error(`not over within ${LONGEST_MS / 1000} s`); process.exit(1); }, LONGEST_MS).unref();

const redis = new Redis(connection);
const seconds = since => (performance.now() - since) / 1000;

async function redisCpu() {
  const info = await redis.info('cpu');
  return ['sys', 'user'].map(kind => Number(info.match(`used_cpu_${kind}:([0-9.]+)`)[1])).reduce((a, b) => a + b);
}

// Runs a worker until `count` jobs have ended well; `started` hears of each when it starts.
function work(queue, processor = async () => {}) {
  const worker = new Worker(queue, processor, { connection, concurrency: CONCURRENCY, autorun: false });
  let left = 0;
  let over;
  worker.on('completed', () => { left -= 1; if (left === 0) over(); });
  worker.on('failed', (job, error) => { console.error(error); process.exit(1); });
  return {
    ready: worker.waitUntilReady(),
    run(count) {
      left = count;
      const ended = new Promise(resolve => { over = resolve; });
      if (!worker.isRunning()) worker.run();
      return ended;
    },
    close: () => worker.close(),
  };
}

async function throughput() {
  const queue = new Queue('throughput', { connection });
  const worker = work('throughput');
  await Promise.all([queue.waitUntilReady(), worker.ready]);
  const cpu = await redisCpu();
  let began = performance.now();
  for (let first = 0; first < tasks; first += BULK) {
    const count = Math.min(BULK, tasks - first);
    await queue.addBulk(Array.from({ length: count }, (_, i) => ({ name: 'noop', data: { number: first + i } })));
  }
  const adding = seconds(began);
  began = performance.now();
  await worker.run(tasks);
  const draining = seconds(began);
  const spent = await redisCpu() - cpu;
  await Promise.all([worker.close(), queue.close()]);
  return { created_per_s: tasks / adding, drained_per_s: tasks / draining, redis_cpu_us_per_task: spent * 1e6 / tasks };
}

async function latency() {
  const waits = [];
  const queue = new Queue('latency', { connection });
  const worker = work('latency', async job => { waits.push(performance.now() - job.data.added); });
  await Promise.all([queue.waitUntilReady(), worker.ready]);
  const count = LATENCY_RATE * LATENCY_SECONDS;
  const ended = worker.run(count);
  const began = performance.now();
  for (let i = 0; i < count; i += 1) {
    const due = began + i * 1000 / LATENCY_RATE;
    const wait = due - performance.now();
    if (wait > 0) await new Promise(resolve => { setTimeout(resolve, wait); });
    queue.add('noop', { added: performance.now() });
  }
  await ended;
  await Promise.all([worker.close(), queue.close()]);
  waits.sort((a, b) => a - b);
  return { start_p50_ms: waits[Math.floor(count * 0.5)], start_p99_ms: waits[Math.floor(count * 0.99)] };
}

// Jobs of a flow wait for their children, so the last one is the root.
async function chain() {
  const flow = new FlowProducer({ connection });
  const worker = work('chain');
  await Promise.all([flow.waitUntilReady(), worker.ready]);
  let job;
  for (let i = 0; i < GRAPH; i += 1) job = { name: 'noop', queueName: 'chain', children: job ? [job] : [] };
  const ended = worker.run(GRAPH);
  const began = performance.now();
  await flow.add(job);
  await ended;
  const taken = seconds(began);
  await Promise.all([worker.close(), flow.close()]);
  return taken;
}

// A job has one parent at most, so the first one adds the others.
async function fan() {
  const queue = new Queue('fan', { connection });
  const flow = new FlowProducer({ connection });
  const middle = Array.from({ length: GRAPH }, () => ({ name: 'noop', queueName: 'fan' }));
  const worker = work('fan', async job => {
    if (job.name === 'first') await flow.add({ name: 'last', queueName: 'fan', children: middle });
  });
  await Promise.all([queue.waitUntilReady(), flow.waitUntilReady(), worker.ready]);
  const ended = worker.run(GRAPH + 2);
  const began = performance.now();
  await queue.add('first', {});
  await ended;
  const taken = seconds(began);
  await Promise.all([worker.close(), queue.close(), flow.close()]);
  return taken;
}

const found = { ...await throughput(), ...await latency(), chain_s: await chain(), fan_s: await fan() };
console.log(JSON.stringify(found));
await redis.quit();
