// Bars from Redis into Nchan's publisher, since Nchan does not listen to channels of others.
// usage: node bridge.js PORT REDIS_URL
'use strict';

const http = require('node:http');
const { Redis } = require('ioredis');

const [port, redisUrl] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
const lastOf = new Map(); // by topic: what is published next waits for it

function post(topic, text) {
  return new Promise((done, failed) => {
    const path = `/publish?topic=${topic}`;
    http.request({ port, path, method: 'POST', agent }, (answer) => answer.resume().on('end', done))
      .on('error', failed)
      .end(text);
  });
}

function publish({ symbol, resolution, bar, seq, epoch, ts }) {
  const topic = `bars:${symbol}:${resolution}`;
  const update = { type: 'bars.update', topic, seq, epoch, ts, payload: bar };
  const text = JSON.stringify(update);
  lastOf.set(topic, (lastOf.get(topic) ?? Promise.resolve()).then(() => post(topic, text)));
}

const redis = new Redis(redisUrl);
redis.psubscribe('bars:*');
redis.on('pmessage', (_pattern, _channel, text) => [JSON.parse(text)].flat().forEach(publish));
