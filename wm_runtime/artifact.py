"""The artifact: one ONNX file that holds the whole step and, as JSON, what it is.

    (state, carry, controllers of both players) -> (state', carry', aux)

Graph inputs are `state.floats`, `state.ints`, `state.match`, `controllers` and `carry.NAME` for every array of the
carry; outputs are `next.floats`, `next.ints`, `next.match`, `next_carry.NAME` and `aux.NAME`. The first axis of each is
the match. The metadata is the model property `melee_world_model`; the last bytes of the file are one more property, the
SHA-256 of all bytes before it (a protobuf file may be extended at its end, so the file stays plain ONNX).
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wm_runtime.errors import UserError
from wm_runtime.schema import field_table_hash

FORMAT_VERSION = 1
METADATA_KEY = "melee_world_model"
_CHECKSUM_KEY = b"sha256"
MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "faithful"
WORLD_MODEL, POLICY = "model", "policy"
"""Kinds of artifact; a policy's metadata say `kind: policy` (see wm_runtime.policy)."""
_OTHERWISE = {
    WORLD_MODEL: "a policy, not a model of the game; name it as an opponent instead",
    POLICY: "a model of the game, not a policy; make a policy with `mwm train-policy`",
}


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose format, field table and checksum have been checked.

    `carry`: name → (shape without the match axis, dtype). `warmup`: true past frames after which a carry knows all that
    it can. `metadata` is everything else that was written of the model.
    """

    path: Path
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        return self.metadata["name"]

    @property
    def carry(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        return {row["name"]: (tuple(row["shape"]), np.dtype(row["dtype"])) for row in self.metadata["carry"]}

    @property
    def aux(self) -> dict[str, np.dtype]:
        return {row["name"]: np.dtype(row["dtype"]) for row in self.metadata["aux"]}

    @property
    def warmup(self) -> int:
        return self.metadata["warmup"]

    @property
    def fidelity(self) -> dict[str, Any]:
        """Measured figures, window kind → figure → {value, low, high}; empty for a model that was not evaluated."""
        return self.metadata.get("fidelity", {})


def models() -> dict[str, Path]:
    """Name → file of the models that ship."""
    return {path.stem: path for path in sorted(MODELS.glob("*.onnx")) if path not in policies().values()}


def policies() -> dict[str, Path]:
    """Name → file of the policies that ship."""
    return {path.stem: path for path in sorted(MODELS.glob("policy-*.onnx"))}


def open_artifact(model: str | Path = DEFAULT_MODEL, kind: str | None = WORLD_MODEL) -> Artifact:
    """The artifact at a path, or the shipped one of that name; of this kind, or of any (None).

    Raises UserError for a file that is missing, no artifact, changed since it was written, or of another kind, format
    version or field table.
    """
    shipped = {**(policies() if kind != WORLD_MODEL else {}), **(models() if kind != POLICY else {})}
    path = {**models(), **policies()}.get(str(model), Path(model))
    try:
        content = path.read_bytes()
    except OSError:
        what = POLICY if kind == POLICY else WORLD_MODEL
        raise UserError(f"{path}: no such {what}; give a file or one of {', '.join(shipped) or 'none'}") from None
    body, checksum = _split(content)
    if checksum is None:
        raise UserError(f"{path}: not a model of this project (no checksum); make one with `mwm export`")
    if hashlib.sha256(body).hexdigest() != checksum:
        raise UserError(f"{path}: damaged (its checksum does not match); fetch or export it again")
    metadata = _read_metadata(path, body)
    if metadata.get("format_version") != FORMAT_VERSION:
        found = metadata.get("format_version")
        raise UserError(f"{path}: artifact format {found}, this version reads {FORMAT_VERSION}; export it again")
    if metadata["field_table"] != field_table_hash():
        raise UserError(
            f"{path}: made for field table {metadata['field_table']}, this version has {field_table_hash()}; "
            "export it again from a checkpoint of this version"
        )
    if kind is not None and metadata.get("kind", WORLD_MODEL) != kind:
        raise UserError(f"{path}: {_OTHERWISE[kind]}")
    return Artifact(path, metadata)


def write_artifact(path: str | Path, graph: bytes, metadata: dict[str, Any]) -> None:
    """Writes a serialized ONNX model (with or without earlier metadata and checksum) as an artifact.

    Needs no onnx: properties are appended in protobuf's wire form. Temporary name, then renamed.
    """
    path = Path(path)
    body = _strip(graph) + _property(METADATA_KEY.encode(), json.dumps(metadata).encode())
    content = body + _property(_CHECKSUM_KEY, hashlib.sha256(body).hexdigest().encode())
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def with_metadata(artifact: Artifact, changes: dict[str, Any]) -> None:
    """Rewrites the artifact's file with some keys of its metadata replaced."""
    write_artifact(artifact.path, artifact.path.read_bytes(), {**artifact.metadata, **changes})


_METADATA_PROPS = 14
"""Number of `metadata_props` in onnx.ModelProto."""


def _property(key: bytes, value: bytes) -> bytes:
    """A StringStringEntryProto as field `metadata_props` of a ModelProto."""
    entry = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return _varint(_METADATA_PROPS << 3 | 2) + _varint(len(entry)) + entry


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


_CHECKSUM_LENGTH = len(_property(_CHECKSUM_KEY, b"0" * 64))


def _split(content: bytes) -> tuple[bytes, str | None]:
    """File → (all before the checksum, checksum in hex or None)."""
    body, tail = content[:-_CHECKSUM_LENGTH], content[-_CHECKSUM_LENGTH:]
    if tail[:-64] != _property(_CHECKSUM_KEY, b"0" * 64)[:-64]:
        return content, None
    return body, tail[-64:].decode("ascii", "replace")


def _strip(graph: bytes) -> bytes:
    """The ONNX model without the metadata and checksum that an earlier write_artifact appended."""
    body, checksum = _split(graph)
    if checksum is None:
        return graph
    metadata = _property(METADATA_KEY.encode(), json.dumps(_parse_metadata(body)).encode())
    if not body.endswith(metadata):
        raise ValueError("metadata is not where write_artifact puts it")
    return body[: -len(metadata)]


def _parse_metadata(body: bytes) -> dict[str, Any]:
    """The JSON of the last metadata property in the file."""
    key = b"\x0a" + _varint(len(METADATA_KEY)) + METADATA_KEY.encode() + b"\x12"
    at = body.rindex(key) + len(key)
    length = shift = 0
    while True:
        byte, at = body[at], at + 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return json.loads(body[at : at + length])


def _read_metadata(path: Path, body: bytes) -> dict[str, Any]:
    try:
        return _parse_metadata(body)
    except (ValueError, IndexError):
        raise UserError(f"{path}: its metadata cannot be read; export it again") from None
