// A road between a page and a gateway: TCP that can be slow, and be cut.
//
//     const road = await link(gateway.address, { rate: 60_000 });   // bytes a second towards the page, shared by all
//     await page.goto(road.url);
//     road.cut();                                                   // ends every connection; new ones are let through
//     road.close();
import net from 'node:net';

/** Between two pieces of a slow road, in ms. */
const STEP_MS = 50;
/** What the road itself holds of one connection, in bytes: little, so that the gateway feels how slow it is. */
const HELD = 16_384;

export function link(address, { rate = Infinity } = {}) {
  const [host, port] = address.split(':');
  const open = new Set();
  const server = net.createServer((client) => {
    const gateway = net.connect(Number(port), host);
    const road = { client, gateway, queue: [], held: 0, ended: false };
    open.add(road);
    client.pipe(gateway);
    gateway.on('data', (data) => {
      if (rate === Infinity) return void client.write(data);
      road.queue.push(data);
      road.held += data.length;
      if (road.held > HELD) gateway.pause();
    });
    gateway.on('end', () => (road.ended = true));
    const end = () => {
      open.delete(road);
      client.destroy();
      gateway.destroy();
    };
    client.on('close', end).on('error', end);
    gateway.on('error', end).on('close', () => road.queue.length === 0 && end());
  });
  const timer = setInterval(() => {
    const busy = [...open].filter(({ queue }) => queue.length > 0);
    for (const road of busy) pass(road, Math.max(1, Math.floor((rate * STEP_MS) / 1_000 / busy.length)));
  }, STEP_MS);
  // A road that a test forgets holds up no end.
  timer.unref();
  server.unref();
  const cut = () => open.forEach(({ client }) => client.destroy());
  const close = () => {
    clearInterval(timer);
    server.close();
    cut();
  };
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => {
    const at = `127.0.0.1:${server.address().port}`;
    resolve({ address: at, url: `http://${at}`, cut, close });
  }));
}

function pass(road, most) {
  let left = most;
  while (left > 0 && road.queue.length > 0) {
    const piece = road.queue[0].subarray(0, left);
    road.client.write(piece);
    left -= piece.length;
    road.held -= piece.length;
    if (piece.length === road.queue[0].length) road.queue.shift();
    else road.queue[0] = road.queue[0].subarray(piece.length);
  }
  if (road.held < HELD / 2) road.gateway.resume();
  if (road.ended && road.queue.length === 0) road.client.end();
}
