"""Reads what a publisher sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from wm_runtime.errors import UserError
from wm_runtime.stream.protocol import Message, read_messages

CHUNK_BYTES = 2**16


def subscribe(host: str, port: int, timeout: float | None = 10.0) -> Iterator[Message]:
    """Connect at once and return the messages as they come, up to and including the `end` message.

    timeout: seconds to wait for the connection and for each next message, None for ever. Raises UserError where
    nothing listens, and on iteration for silence beyond `timeout`, a connection lost in the middle, or foreign bytes.
    """
    where = f"stream {host}:{port}"
    try:
        connection = socket.create_connection((host, port), timeout)
    except (OSError, OverflowError) as error:
        raise UserError(f"nothing listens at {host}:{port} ({error}); start `mwm stream serve` there or "
                        "check host and port") from error
    return _messages(connection, where)


def _messages(connection: socket.socket, where: str) -> Iterator[Message]:
    with connection:
        for message in read_messages(_received(connection, where), where):
            yield message
            if message["type"] == "end":
                return


def _received(connection: socket.socket, where: str) -> Iterator[bytes]:
    try:
        while chunk := connection.recv(CHUNK_BYTES):
            yield chunk
    except TimeoutError as error:
        raise UserError(f"{where} sent nothing for {connection.gettimeout():g} s; "
                        "check that its publisher still runs, or wait longer") from error
    except OSError:
        return  # the reader says that the sequence broke off
