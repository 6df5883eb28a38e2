// The real programs for tests: a redis-server and barcast's own processes, on free ports, ready when they are returned.
// Nothing outlives the test: `stopAll()` in `after`, and whatever is left ends with this process.
//
//     const store = await redis();
//     const gateway = await serve(store);
//     const generator = await generate(store, ['--symbols', 'AAPL', '--resolutions', '1S', '--interval', '0.2']);
//     await gateway.kill();      // SIGKILL, as a crash is
//     await gateway.start();     // again, on the same port
//     after(stopAll);
//
// usage: CARGO_TARGET_DIR=<where cargo built> (default: target); BARCAST_BIN names another binary
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
/** Where cargo built to, and where tests may write. */
export const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');
/** The binary under test. */
export const barcast = process.env.BARCAST_BIN ?? path.join(target, 'debug/barcast');

/** Longest wait for anything, in ms: slow machines are slow, but nothing waits for ever. */
export const PATIENCE_MS = 60_000;
/** Between two looks at what is waited for, in ms. */
const LOOK_EVERY_MS = 25;
/** A process that does not end by itself within so much is killed, in ms. */
const GRACE_MS = 15_000;
/** How much of a process's log is kept for the message of a failed test, in characters. */
const LOG_KEPT = 200_000;
/** Somebody else may take a free port before redis-server does. */
const PORT_TRIES = 5;

const running = new Set();
const folders = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/**
 * Waits until `look` gives something true, and returns it. A `look` that throws counts as not yet.
 * @param what it is, for the message
 */
export async function until(what, look, within = PATIENCE_MS) {
  const deadline = Date.now() + within;
  let last;
  for (;;) {
    try {
      last = await look();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what} (at last: ${last?.message ?? JSON.stringify(last)})`);
    await pause(LOOK_EVERY_MS);
  }
}

/** A port of 127.0.0.1 that was free a moment ago. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** A child process with its log. */
class Process {
  #child = null;
  #name;
  /** What it wrote, its newest part. */
  log = '';

  constructor(name) {
    this.#name = name;
  }

  get pid() {
    return this.#child?.pid;
  }

  /** Starts the program and waits until `isReady` is true. */
  async run(program, args, isReady, env = {}) {
    if (this.#child) throw new Error(`${this.#name} runs already`);
    this.log = '';
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    this.#child = child;
    running.add(child);
    let failed = null;
    child.on('error', (error) => (failed = error));
    child.on('exit', () => running.delete(child));
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (this.log = (this.log + text).slice(-LOG_KEPT)));
    }
    try {
      await until(`${this.#name} is ready`, async () => {
        if (failed) return failed;
        if (child.exitCode !== null || child.signalCode !== null) return new Error('it ended');
        return isReady();
      }).then((came) => {
        if (came instanceof Error) throw came;
      });
    } catch (error) {
      await this.end('SIGKILL');
      throw new Error(`${this.#name}: ${error.message}\n${this.log}`);
    }
  }

  /** Ends it, and waits until it is gone: its exit code, or the signal that ended it. */
  async end(signal) {
    const child = this.#child;
    this.#child = null;
    if (!child || child.pid === undefined) return null;
    const gone = () => child.exitCode ?? child.signalCode;
    child.kill(signal);
    try {
      await until(`${this.#name} has ended`, () => gone() !== null, GRACE_MS);
    } catch (error) {
      child.kill('SIGKILL');
      throw new Error(`${error.message}\n${this.log}`);
    }
    return gone();
  }
}

/** One of barcast's commands, with `kill`, `stop` and `start` again. */
class Server extends Process {
  #command;
  #args;
  /** @type {string|null} `127.0.0.1:PORT`, the same at every start */
  address = null;

  constructor(command, args) {
    super(`barcast ${command}`);
    this.#command = command;
    this.#args = args;
  }

  get url() {
    return `http://${this.address}`;
  }

  get socket() {
    return `ws://${this.address}/api/v1/ws`;
  }

  async start() {
    // What is looked for in the log is there whatever the surroundings say, and without colours between its words.
    const env = { NO_COLOR: '1', RUST_LOG: 'info' };
    if (this.#command === 'generate') {
      await this.run(barcast, [this.#command, ...this.#args], () => this.log.includes('generator started'), env);
      return this;
    }
    const listen = ['--listen', this.address ?? '127.0.0.1:0'];
    await this.run(barcast, [this.#command, ...listen, ...this.#args], async () => {
      this.address ??= /gateway listens address=(\S+)/.exec(this.log)?.[1] ?? null;
      return this.address && (await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(GRACE_MS) })).ok;
    }, env);
    return this;
  }

  /** As a crash: at once, without a word to the clients. */
  kill() {
    return this.end('SIGKILL');
  }

  /** As an operator does: drains, then ends. */
  stop() {
    return this.end('SIGTERM');
  }

  /** GET of one of its routes, parsed. */
  async json(route) {
    const response = await fetch(new URL(route, this.url), { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!response.ok) throw new Error(`${route}: ${response.status} ${await response.text()}`);
    return response.json();
  }
}

/** A Redis that writes nothing to the disk. `start` after `kill` is an empty one. */
class Redis extends Process {
  port = 0;
  #folder = mkdtempSync(path.join(os.tmpdir(), 'barcast-redis-'));

  constructor() {
    super('redis-server');
    folders.add(this.#folder);
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  async start() {
    for (let nth = 1; ; nth += 1) {
      const port = this.port || (await freePort());
      const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', this.#folder];
      try {
        await this.run(process.env.REDIS_SERVER ?? 'redis-server', args, () => this.log.includes('eady to accept connections'));
        this.port = port;
        return this;
      } catch (error) {
        if (this.port || nth === PORT_TRIES || !/in use/.test(error.message)) throw error;
      }
    }
  }

  /** Sends one command, and returns the first line of the answer, such as `:1`. */
  command(...words) {
    return new Promise((resolve, reject) => {
      const socket = net.connect(this.port, '127.0.0.1', () => {
        const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
        socket.write(`*${words.length}\r\n${parts.join('')}`);
      });
      socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error('Redis does not answer'))).once('error', reject);
      socket.once('data', (data) => {
        socket.destroy();
        const line = data.toString().split('\r\n')[0];
        line.startsWith('-') ? reject(new Error(line)) : resolve(line);
      });
    });
  }

  /** Publishes a bar, once somebody listens: a gateway that is ready does. */
  async publish(symbol, resolution, bar) {
    const payload = JSON.stringify({ symbol, resolution, bar });
    const heard = await this.command('PUBLISH', `bars:${symbol}:${resolution}`, payload);
    if (heard === ':0') throw new Error(`nobody listens to bars:${symbol}:${resolution}`);
  }

  kill() {
    return this.end('SIGKILL');
  }

  stop() {
    return this.end('SIGTERM');
  }
}

const started = new Set();

function keep(server) {
  started.add(server);
  return server.start();
}

/** A redis-server: `url`, `port`. */
export const redis = () => keep(new Redis());

/** Generator and gateway in one process, without Redis: `url`, `socket`, `json(route)`. */
export const dev = (args = []) => keep(new Server('dev', args));

/** A gateway on a Redis: `url`, `socket`, `json(route)`. */
export const serve = (store, args = []) => keep(new Server('serve', ['--redis-url', store.url, ...args]));

/** A generator that publishes to a Redis. */
export const generate = (store, args = []) => keep(new Server('generate', ['--redis-url', store.url, ...args]));

/** Ends all that was started, gateways and generators before the Redis they use. */
export async function stopAll() {
  for (const server of [...started].reverse()) await server.kill();
  started.clear();
}
