// Bars from Redis to WebSocket clients as the documentation of ws and ioredis has it.
// usage: node server.js PORT REDIS_URL WORKERS
'use strict';

const cluster = require('node:cluster');
const { Redis } = require('ioredis');
const { WebSocketServer } = require('ws');

const [port, redisUrl, workers] = process.argv.slice(2);
const socketsOf = new Map(); // by topic

function broadcast({ symbol, resolution, bar, seq, epoch, ts }) {
  const topic = `bars:${symbol}:${resolution}`;
  const update = { type: 'bars.update', topic, seq, epoch, ts, payload: bar };
  const text = JSON.stringify(update);
  for (const socket of socketsOf.get(topic) ?? []) socket.send(text);
}

function subscribe(socket, topics) {
  for (const topic of topics) {
    if (!socketsOf.has(topic)) socketsOf.set(topic, new Set());
    socketsOf.get(topic).add(socket);
  }
}

function serve() {
  const redis = new Redis(redisUrl);
  redis.psubscribe('bars:*');
  redis.on('pmessage', (_pattern, _channel, text) => [JSON.parse(text)].flat().forEach(broadcast));

  const server = new WebSocketServer({ host: '127.0.0.1', port, path: '/ws' });
  server.on('connection', (socket) => {
    socket.on('error', console.error);
    socket.on('message', (request) => {
      const { topics } = JSON.parse(request).payload;
      subscribe(socket, topics);
      socket.send(JSON.stringify({ type: 'bars.subscribe.response', payload: { status: 'ok', topics } }));
    });
    socket.on('close', () => socketsOf.forEach((sockets) => sockets.delete(socket)));
  });
}

if (cluster.isPrimary && workers > 1) {
  for (let nth = 0; nth < workers; nth += 1) cluster.fork();
} else {
  serve();
}
