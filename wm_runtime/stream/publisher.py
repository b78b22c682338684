"""Publishes matches to any number of TCP clients as they are played."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from types import TracebackType

from wm_runtime.errors import UserError
from wm_runtime.stream.protocol import Message, end_message, pack

QUEUED_MESSAGES = 120
"""Messages that wait for a client, two seconds of play; beyond them its oldest frames are dropped."""
ACCEPT_SECONDS = 0.1
"""How often the accepting thread looks whether the publisher was closed."""
CLOSE_SECONDS = 2.0
"""How long `close` lets clients take in what waits for them before it cuts them off."""


class Publisher:
    """A TCP server of `melee-frames`, one way: nothing that clients send is read.

    A client is sent the present match's header when it connects and every message published from then on. A client
    that reads too slowly loses its oldest waiting frames, never a header, and sees a gap in the frame numbers; the
    others and the publisher notice nothing. `dropped` counts those frames over all clients.

    host, port: where to listen; port 0 picks a free one, `port` tells which. Raises UserError where it cannot listen.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._server = socket.create_server((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"cannot listen at {host}:{port}: {why}; choose another host or port") from error
        self.host, self.port = self._server.getsockname()[:2]
        self.dropped = 0
        self._lock = threading.Lock()
        self._header: bytes | None = None
        self._clients: list[_Client] = []
        self._closing = threading.Event()
        self._server.settimeout(ACCEPT_SECONDS)
        self._accepting = threading.Thread(target=self._accept, name="publisher", daemon=True)
        self._accepting.start()

    @property
    def clients(self) -> int:
        """How many clients are connected, as far as sending to them has shown."""
        with self._lock:
            return sum(client.is_alive() for client in self._clients)

    def publish(self, message: Message) -> None:
        """Hand a message to every client. Never waits for any of them."""
        packed, droppable = pack(message), message["type"] == "frame"
        with self._lock:
            if message["type"] == "match":
                self._header = packed
            self._clients = [client for client in self._clients if client.is_alive()]
            self.dropped += sum(client.put(packed, droppable) for client in self._clients)

    def close(self, reason: str = "closed") -> None:
        """Send the end message, let clients take in what waits for them for at most CLOSE_SECONDS, and stop."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._accepting.join()
        self._server.close()
        self.publish(end_message(reason))
        deadline = time.monotonic() + CLOSE_SECONDS
        for client in self._clients:
            client.finish(deadline)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kind.__name__ if kind else "closed")

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client = _Client(self._server.accept()[0])
            except OSError:  # mostly the timeout; else a client that was gone before it was accepted
                continue
            with self._lock:
                if self._header is not None:
                    client.put(self._header, droppable=False)
                client.start()
                self._clients.append(client)


class _Client(threading.Thread):
    """Sends one client what waits for it; ends when the client is gone or `finish` was called."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(name="publisher-client", daemon=True)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._changed = threading.Condition()
        self._finishing = False

    def put(self, packed: bytes, droppable: bool) -> int:
        """Let a message wait to be sent. Returns how many were dropped to make room for it."""
        with self._changed:
            full = len(self._waiting) >= QUEUED_MESSAGES
            if full:
                oldest = next((i for i, (_, may_go) in enumerate(self._waiting) if may_go), 0)
                del self._waiting[oldest]
            self._waiting.append((packed, droppable))
            self._changed.notify()
            return int(full)

    def run(self) -> None:
        with self._connection, contextlib.suppress(OSError):
            while (packed := self._next()) is not None:
                self._connection.sendall(packed)

    def finish(self, deadline: float) -> None:
        """End after what waits is sent, or at `deadline` (time.monotonic) by closing the connection."""
        with self._changed:
            self._finishing = True
            self._changed.notify()
        self.join(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.join()

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._finishing)
            return self._waiting.popleft()[0] if self._waiting else None
