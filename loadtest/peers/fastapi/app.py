"""Bars from Redis to WebSocket clients as FastAPI's and redis-py's documentation have it.

REDIS_URL says where Redis is.
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from redis.asyncio import Redis

COMPACT = (",", ":")


class ConnectionManager:
    """Who watches what."""

    def __init__(self):
        self.sockets: dict[str, set[WebSocket]] = {}

    def subscribe(self, socket: WebSocket, topics: list[str]):
        for topic in topics:
            self.sockets.setdefault(topic, set()).add(socket)

    def disconnect(self, socket: WebSocket):
        for sockets in self.sockets.values():
            sockets.discard(socket)

    async def broadcast(self, topic: str, text: str):
        # A copy: clients come and go while this waits.
        for socket in list(self.sockets.get(topic, ())):
            try:
                await socket.send_text(text)
            except (RuntimeError, WebSocketDisconnect):
                self.disconnect(socket)


manager = ConnectionManager()


async def forward(message: dict):
    topic = f"bars:{message['symbol']}:{message['resolution']}"
    numbers = {name: message[name] for name in ("seq", "epoch", "ts") if name in message}
    update = {"type": "bars.update", "topic": topic, **numbers, "payload": message["bar"]}
    await manager.broadcast(topic, json.dumps(update, separators=COMPACT))


async def listen():
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, redis.pubsub() as pubsub:
        await pubsub.psubscribe("bars:*")
        async for event in pubsub.listen():
            if event["type"] == "pmessage":
                message = json.loads(event["data"])
                for one in message if isinstance(message, list) else [message]:
                    await forward(one)


@asynccontextmanager
async def lifespan(_app: FastAPI):
    listener = asyncio.create_task(listen())
    yield
    listener.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws")
async def serve(socket: WebSocket):
    await socket.accept()
    try:
        async for request in socket.iter_json():
            topics = request["payload"]["topics"]
            manager.subscribe(socket, topics)
            answer = {"status": "ok", "topics": topics}
            await socket.send_json({"type": "bars.subscribe.response", "payload": answer})
    finally:
        manager.disconnect(socket)
