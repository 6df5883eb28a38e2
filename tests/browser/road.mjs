// The way between a gateway and a browser, as a TCP proxy whose faults the test chooses.
//
//     const road = await openRoad(gateway.address);
//     road.rate = 40_000;       // bytes a second towards the browser, shared; Infinity is the default
//     road.isDeaf = true;       // new connections are taken and nothing is answered, what is open stands still
//     road.isClosed = true;     // new connections are cut
//     road.cut();               // all that is open ends without a word
//     road.close();
import net from 'node:net';

/** How often bytes are handed on while the rate is bounded, in ms. */
const TICK_MS = 20;
/** What a link of bounded rate holds on the way, in bytes. */
const QUEUE_BYTES = 16_384;

class Road {
  rate = Infinity;
  isDeaf = false;
  isClosed = false;
  /** connections that were ever made */
  made = 0;
  #pairs = new Set();
  #server;

  constructor(address) {
    const [host, port] = address.split(':');
    this.#server = net.createServer((near) => {
      this.made += 1;
      if (this.isClosed) return near.destroy();
      const far = net.connect(Number(port), host);
      const pair = { near, far, queue: [], size: 0, isOpen: true };
      this.#pairs.add(pair);
      const end = () => {
        this.#pairs.delete(pair);
        near.destroy();
        far.destroy();
      };
      for (const socket of [near, far]) socket.on('error', end).on('close', end);
      near.on('data', (data) => this.isDeaf || far.write(data));
      far.on('data', (data) => {
        if (this.isDeaf) return;
        if (this.rate === Infinity && pair.size === 0) return near.write(data);
        pair.queue.push(data);
        pair.size += data.length;
        if (pair.size > QUEUE_BYTES) far.pause();
      });
    });
    this.timer = setInterval(() => this.#hand(), TICK_MS);
    // A road that a test forgets holds up no end.
    this.timer.unref();
    this.#server.unref();
  }

  async open() {
    await new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return this;
  }

  get socket() {
    return `ws://127.0.0.1:${this.#server.address().port}/api/v1/ws`;
  }

  #hand() {
    for (const pair of this.#pairs) {
      let left = (this.rate * TICK_MS) / 1000 / this.#pairs.size;
      while (left > 0 && pair.queue.length > 0 && !this.isDeaf) {
        const [first] = pair.queue;
        const part = first.subarray(0, Math.ceil(Math.min(left, first.length)));
        pair.near.write(part);
        left -= part.length;
        pair.size -= part.length;
        if (part.length === first.length) pair.queue.shift();
        else pair.queue[0] = first.subarray(part.length);
      }
      if (pair.size < QUEUE_BYTES / 2) pair.far.resume();
    }
  }

  cut() {
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
  }

  close() {
    clearInterval(this.timer);
    this.cut();
    this.#server.close();
  }
}

export const openRoad = (address) => new Road(address).open();
