"""Hostile requests made from a seed, over HTTP and gRPC."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from ._oracle import (
    CONTENTS,
    DTYPES,
    Draft,
    Oracle,
    Reply,
    Tensor,
    Unreadable,
    length_prefixed,
    outputs_of_grpc,
    outputs_of_http,
    read_grpc,
    read_http,
)

DEADLINE = 30.0
SERVICE = "/inference.GRPCInferenceService/"
CLEAR_CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
# For data in JSON, tritonserver makes room for as much as the shape says, and ends where there is not as much memory.
MOST_IN_JSON = 1_000_000
# Tritonserver ends on its stack's end by JSON nested 1,000,000 deep, and by a body in 1,000,000 chunks: nothing
# that a model could prevent. `serve` starts it again; a proxy that buffers and bounds bodies keeps these away.
DEEPEST, MOST_CHUNKS = 10_000, 2_000
# A shape whose size in bytes is 0 but for multiples of 2**64 passes Triton's comparison with the data, and then
# ends the stub of a model with an input of variable length, before any of the model's own code.
# Nor are calls over gRPC given up, which up to Triton 24.11 can end tritonserver (its issue 7368).
VARIABLE = ("BERTopic-topics", "BERTopic-bert")

Build = Callable[[], Draft]


class Attack(NamedTuple):
    """A request ready to send."""

    what: str
    send: Callable[[], Reply]
    asked: Build | None = None
    """What the bytes sent ask for; None where no answer would be right"""
    valid: bool = False
    closing: bool = False
    """Closing the connection is an answer"""


class Attacker:
    """Makes the attack of each seed; the same one each time.

    Parameters
    ----------
    oracle : Oracle
    texts : list of str
        Ordinary ones.
    http, grpc_address : (host, port)
    """

    def __init__(self, oracle: Oracle, texts: list[str], http: tuple[str, int], grpc_address: tuple[str, int]) -> None:
        self.texts = [*texts, "", "before\0after", "日本語 🙂 \u202e", " \t\n", "word " * 2_000]
        self.embeddings = oracle.embed(self.texts)
        self.reduced = oracle.umap.transform(self.embeddings)
        self.tokens = [oracle.tokenizer.tokenize([text]) for text in self.texts]
        self.topics = list(oracle.topics)
        self.configs = oracle.configs
        self.http, self.grpc_address = http, grpc_address
        self.channel = _channel(grpc_address)

    def attack(self, seed: int) -> Attack:
        rng = random.Random(seed)
        kind = rng.choices(
            (self._http, self._grpc, self._framing, self._damaged_json, self._damaged_message, self._elsewhere),
            (8, 8, 4, 4, 3, 1),
        )[0]
        return kind(rng)

    # Requests that either protocol can carry.

    def _draft(self, rng: random.Random) -> Draft:
        """A valid request of one of the models."""
        model = rng.choice(list(self.configs))
        rows = [rng.randrange(len(self.texts)) for _ in range(rng.choice((1, 1, 1, 2, 3, 8)))]
        config = self.configs[model]
        match model.rpartition("-")[2]:
            case "topics":
                ids = [rng.choice(self.topics) for _ in rows] if rng.random() < 0.9 else []
                inputs = [Tensor("TOPIC", "INT32", [len(ids)], np.array(ids, "<i4").tobytes())]
            case "bert":
                tokens = self.tokens[rows[0]]
                shape = list(tokens.input_ids.shape)
                inputs = [
                    Tensor("INPUT_IDS", "INT64", shape, tokens.input_ids.tobytes()),
                    Tensor("ATTENTION_MASK", "INT64", shape, tokens.attention_mask.tobytes()),
                ]
            case "umap" | "inference":
                inputs = [Tensor("IN", "FP32", [len(rows), self.embeddings.shape[1]], self.embeddings[rows].tobytes())]
            case "hdbscan":
                inputs = [Tensor("REDUCED", "FP32", [len(rows), self.reduced.shape[1]], self.reduced[rows].tobytes())]
            case _:
                data = length_prefixed([self.texts[row].encode() for row in rows])
                inputs = [Tensor("TEXT", "BYTES", [len(rows), 1], data)]
        names = [output.name for output in config.output]
        outputs = [(name, {}) for name in rng.sample(names, rng.randint(0, len(names)))]
        return Draft(model, inputs, outputs, version=rng.choice(("", "1")))

    def _spoiled(self, rng: random.Random) -> tuple[str, Draft]:
        """A draft with one thing wrong, or nothing."""
        draft = self._draft(rng)
        if rng.random() < 0.25:
            return "valid", draft
        spoil = rng.choice((_shape, _shape, _datatype, _data, _data, _values, _values, _names, _outputs, _parameters))
        spoil(rng, draft)
        return spoil.__name__[1:], draft

    def _http(self, rng: random.Random) -> Attack:
        what, draft = self._spoiled(rng)
        sizes = [math.prod(abs(n) for n in tensor.shape) for tensor in draft.inputs]
        header, data = _to_http(draft, as_json=rng.random() < 0.4 and max(sizes, default=0) <= MOST_IN_JSON)
        request = _Post(
            draft.model, draft.version, header + data, {"Inference-Header-Content-Length": str(len(header))}
        )
        return self._posted(f"http {what}", request, valid=what == "valid")

    def _posted(self, what: str, request: _Post, *, valid: bool = False, closing: bool = False) -> Attack:
        send = partial(_exchange, self.http, [request.encoded()])
        return Attack(f"{what} {request.model}", send, request.read, valid=valid, closing=closing)

    def _grpc(self, rng: random.Random) -> Attack:
        what, draft = self._spoiled(rng)
        message = _to_grpc(draft, in_contents=rng.random() < 0.3)
        if what == "valid" and rng.random() < 0.3:
            what = "contents and raw contents"
            _confuse_contents(rng, message)
        return self._called(f"grpc {what} {draft.model}", message.SerializeToString(), valid=what == "valid")

    def _called(self, what: str, data: bytes, *, valid: bool = False) -> Attack:
        return Attack(what, partial(self._call, "ModelInfer", data), partial(_parsed, data), valid=valid)

    def _call(self, method: str, data: bytes, metadata: Any = ()) -> Reply:
        # What a connection has too much of spoils other calls on it.
        channel = _channel(self.grpc_address) if metadata else self.channel
        call = channel.unary_unary(
            SERVICE + method, request_serializer=bytes, response_deserializer=ModelInferResponse.FromString
        )
        try:
            return Reply("answered", outputs=outputs_of_grpc(call(data, timeout=DEADLINE, metadata=metadata)))
        except grpc.RpcError as error:
            code = error.code().name
            if code == "DEADLINE_EXCEEDED":
                return Reply("silent")
            # A method that is not there has no words.
            words = error.details() or ("unknown method" if code == "UNIMPLEMENTED" else "")
            return Reply("refused" if code in CLEAR_CODES else "internal", f"{code} {words}" if words else "")

    # Requests that only one of them can.

    def _damaged_json(self, rng: random.Random) -> Attack:
        draft = self._draft(rng)
        header, data = _to_http(draft, as_json=rng.random() < 0.6)
        damage = rng.choice((_flipped, _flipped, _cut, _with_junk, _other_leaf, _other_leaf, _other_leaf, _deep))
        damaged = damage(rng, header)
        length = len(damaged if rng.random() < 0.9 else header)
        request = _Post(draft.model, draft.version, damaged + data, {"Inference-Header-Content-Length": str(length)})
        return self._posted(f"json {damage.__name__[1:]}", request, closing=damage is _deep)

    def _damaged_message(self, rng: random.Random) -> Attack:
        message = _to_grpc(self._draft(rng), in_contents=rng.random() < 0.3).SerializeToString()
        how = rng.randrange(6)
        if how < 3:
            damage = rng.choice((_flipped, _cut, _with_junk))
            return self._called(f"grpc {damage.__name__[1:]}", damage(rng, message))
        if how == 3:
            method = rng.choice(
                ("ModelInfer2", "", "RepositoryModelUnload", "LogSettings", "SystemSharedMemoryRegister")
            )
            return Attack(f"grpc method {method}", partial(self._call, method, message))
        if how == 4:
            metadata = [(f"x-{i}", "v" * rng.choice((1, 100, 4_000))) for i in range(rng.choice((1, 20, 300)))]
            send = partial(self._call, "ModelInfer", message, metadata=metadata)
            return Attack("grpc metadata", send, partial(_parsed, message))
        frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(_frame(rng) for _ in range(rng.randint(0, 4)))
        send = partial(_exchange, self.grpc_address, [frames[: rng.randint(1, len(frames))]], await_answer=False)
        return Attack("grpc frames", send, closing=True)

    def _framing(self, rng: random.Random) -> Attack:
        """What surrounds a valid body is wrong, or arrives oddly."""
        draft = self._draft(rng)
        header, data = _to_http(draft, as_json=False)
        request = _Post(
            draft.model, draft.version, header + data, {"Inference-Header-Content-Length": str(len(header))}
        )
        frame = rng.choice(
            (_header_length, _content_length, _odd_headers, _request_line, _chunked, _compressed, _in_time, _broken_off)
        )
        return frame(rng, self, request)

    def _elsewhere(self, rng: random.Random) -> Attack:
        """Paths that change or show the server, and paths that are none."""
        path = rng.choice(
            (
                "/v2/repository/index", "/v2/repository/models/BERTopic-text/unload", "/v2/logging",
                "/v2/trace/setting", "/v2/models/BERTopic-text/trace/setting",
                "/v2/systemsharedmemory/region/x/register", "/v2/cudasharedmemory/region/x/register",
                "/v2/models/..%2f..%2fetc%2fpasswd/infer", "/v2/models/../../../etc/passwd/infer",
                "/v2/models//infer", "/v2/models/Nothing/infer", "/v2/models/BERTopic-text/versions/7/infer",
                "/v2/models/BERTopic-text/versions/-1/infer", "/v2/models/BERTopic-text/versions/x/infer",
                "/v2/models/BERTopic-text/versions/" + "9" * 40 + "/infer", "/", "//", "/%00", "/v2/" + "a" * 4_000,
            )
        )  # fmt: skip
        body = b'{"key": "x", "offset": 0, "byte_size": 8}'
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        return Attack(f"http {path}", partial(_exchange, self.http, [head.encode() + body]), closing=True)


class _Post(NamedTuple):
    """An HTTP request of one inference."""

    model: str
    version: str
    body: bytes
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return f"/v2/models/{self.model}" + (f"/versions/{self.version}" if self.version else "") + "/infer"

    def encoded(self, *lines: str, body: bytes | None = None, length: str | None = "right", first: str = "") -> bytes:
        body = self.body if body is None else body
        head = [first or f"POST {self.path} HTTP/1.1", "Host: x", *lines]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        if length is not None:
            head.append(f"Content-Length: {len(body) if length == 'right' else length}")
        return "\r\n".join(head).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body

    def read(self) -> Draft:
        return read_http(self.model, self.version, self.headers.get("Inference-Header-Content-Length"), self.body)


# What spoils a draft.


def _shape(rng: random.Random, draft: Draft) -> None:
    tensor = rng.choice(draft.inputs)
    place = rng.randrange(len(tensor.shape))
    # Dimensions that some product with the size of an element wraps around 64 bits.
    wrapping = [-(2**63), 2**31, 2**32, 2**32 + 1, 2**33, 2**62, 2**63 - 1]
    sizes = [-1, 0, 1, 2, 383, 1025, 65, 600, *([] if draft.model in VARIABLE else wrapping)]
    match rng.randrange(4):
        case 0:
            tensor.shape = []
        case 1:
            tensor.shape.insert(rng.randint(0, len(tensor.shape)), rng.choice((0, 1, 2)))
        case _:
            tensor.shape[place] = rng.choice(sizes)


def _datatype(rng: random.Random, draft: Draft) -> None:
    kinds = ("FP32", "FP64", "FP16", "BF16", "INT8", "INT32", "INT64", "UINT64", "BOOL", "BYTES", "", "fp32", "FP99")
    rng.choice(draft.inputs).datatype = rng.choice(kinds)


def _data(rng: random.Random, draft: Draft) -> None:
    tensor = rng.choice(draft.inputs)
    match rng.randrange(5):
        case 0:
            tensor.data = tensor.data[: rng.randint(0, max(0, len(tensor.data) - 1))]
        case 1:
            tensor.data += bytes(rng.choice((1, 3, 4, 8, 1536)))
        case 2:
            tensor.data = b""
        case 3:
            n = rng.choice((65, 1025))
            tensor.data, tensor.shape = (tensor.data * n)[: 4 << 20], [n, *tensor.shape[1:]]
        case _:
            tensor.data = rng.choice((0, 1, 2**16, 2**31, 2**32 - 1)).to_bytes(4, "little") + tensor.data[4:]


def _values(rng: random.Random, draft: Draft) -> None:
    tensor = rng.choice(draft.inputs)
    if tensor.datatype == "BYTES":
        texts = (b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80", b"\0", b"", "\ufffd".encode())
        tensor.data = length_prefixed([rng.choice(texts) for _ in range(tensor.shape[0])])
        return
    values = np.frombuffer(tensor.data, DTYPES[tensor.datatype]).copy()
    if not len(values):
        return
    if values.dtype.kind == "i":
        odd: tuple[Any, ...] = (-1, -2, 2, 5, 30_521, 30_522, 10**6, 2**31 - 1, -(2**31))
    else:
        odd = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1e-40, 3.4e38, -3.4e38)
    where: Any = rng.randrange(len(values)) if rng.random() < 0.6 else slice(None)
    values[where] = rng.choice(odd)
    tensor.data = values.tobytes()


def _names(rng: random.Random, draft: Draft) -> None:
    match rng.randrange(6):
        case 0:
            rng.choice(draft.inputs).name = rng.choice(("", "X", "in", "IN\0", "I" * 10_000, "日"))
        case 1:
            draft.inputs.append(draft.inputs[0])
        case 2:
            draft.inputs.append(Tensor("X", "FP32", [1, 1], bytes(4)))
        case 3:
            draft.inputs.pop()
        case 4:
            draft.model = rng.choice(("", "Nothing", "BERTopic", "BERTopic-TEXT", "BERTopic-text2"))
        case _:
            draft.version = rng.choice(("2", "0", "-1", "x", "1.5", "9" * 30))


def _outputs(rng: random.Random, draft: Draft) -> None:
    match rng.randrange(4):
        case 0:
            draft.outputs.append((rng.choice(("X", "", "IN", "O" * 10_000)), {}))
        case 1:
            draft.outputs *= 2
        case 2:
            region = {"shared_memory_region": "x", "shared_memory_byte_size": 8}
            draft.outputs = [(name, region) for name, _ in draft.outputs]
        case _:
            classes = {"classification": rng.choice((1, 2, 3, 1000, 2**31, 2**40, -1))}
            draft.outputs = [(name, classes) for name, _ in draft.outputs if name != "JSON"]


def _parameters(rng: random.Random, draft: Draft) -> None:
    name = rng.choice(("timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "triton_x", "other"))
    draft.parameters[name] = rng.choice((0, 1, -1, 7, 2**40, True, "text", ""))
    draft.id = rng.choice(("", "an id", "日本", "i" * 10_000))
    if rng.random() < 0.2:
        draft.inputs[0].parameters = {"shared_memory_region": "x", "shared_memory_byte_size": 8}


# A draft as bytes.


def _to_http(draft: Draft, *, as_json: bool) -> tuple[bytes, bytes]:
    inputs, parts = [], []
    for tensor in draft.inputs:
        given: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        values = _json_values(tensor) if as_json else None
        if tensor.parameters:
            given["parameters"] = tensor.parameters
        elif values is None:
            given["parameters"] = {"binary_data_size": len(tensor.data)}
            parts.append(tensor.data)
        else:
            given["data"] = values
        inputs.append(given)
    content: dict[str, Any] = {"inputs": inputs, "parameters": draft.parameters, "id": draft.id}
    if draft.outputs:
        content["outputs"] = [
            {"name": name, "parameters": {"binary_data": not as_json, **parameters}}
            for name, parameters in draft.outputs
        ]
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape"), b"".join(parts)


def _json_values(tensor: Tensor) -> Any:
    """As JSON can write them, None if it cannot."""
    with suppress(ValueError, KeyError, struct.error):
        if tensor.datatype != "BYTES":
            return np.frombuffer(tensor.data, DTYPES[tensor.datatype]).tolist()
        texts, place = [], 0
        while place < len(tensor.data):
            (length,) = struct.unpack_from("<I", tensor.data, place)
            texts.append(tensor.data[place + 4 : place + 4 + length].decode("utf-8", "surrogateescape"))
            place += 4 + length
        return texts
    return None


def _to_grpc(draft: Draft, *, in_contents: bool) -> Any:
    message = ModelInferRequest(model_name=draft.model, model_version=draft.version, id=draft.id)
    for tensor in draft.inputs:
        given = message.inputs.add(name=tensor.name, datatype=tensor.datatype)
        given.shape.extend(tensor.shape)
        _set(given.parameters, tensor.parameters)
        values = _json_values(tensor) if in_contents else None
        if values is None or tensor.datatype == "":
            message.raw_input_contents.append(tensor.data)
        elif tensor.datatype == "BYTES":
            given.contents.bytes_contents.extend(text.encode("utf-8", "surrogateescape") for text in values)
        else:
            getattr(given.contents, CONTENTS[tensor.datatype]).extend(values)
    for name, parameters in draft.outputs:
        _set(message.outputs.add(name=name).parameters, parameters)
    _set(message.parameters, draft.parameters)
    return message


def _set(target: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(target[name], kind, value)


def _confuse_contents(rng: random.Random, message: Any) -> None:
    raw = message.raw_input_contents
    match rng.randrange(4):
        case 0:
            message.inputs[0].contents.fp64_contents.append(1.0)
        case 1:
            raw.append(b"more")
        case 2:
            del raw[:]
        case _:
            message.inputs[0].contents.bool_contents.extend([True] * 5)
            del raw[1:]


def _parsed(data: bytes) -> Draft:
    try:
        return read_grpc(ModelInferRequest.FromString(data))
    except DecodeError as error:
        raise Unreadable("no message") from error


# What damages bytes.


def _flipped(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _cut(rng: random.Random, data: bytes) -> bytes:
    start, stop = sorted((rng.randint(1, len(data)), rng.randint(1, len(data))))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[stop:]


def _with_junk(rng: random.Random, data: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.randbytes(rng.choice((1, 4, 100))) + data[place:]


def _other_leaf(rng: random.Random, header: bytes) -> bytes:
    """Some value in the JSON becomes another one, or goes away."""
    content = json.loads(header.decode("utf-8", "surrogateescape"))
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        node = waiting.pop()
        for key, value in node.items() if isinstance(node, dict) else enumerate(node[:20]):
            places.append((node, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    node, key = rng.choice(places)
    if rng.random() < 0.15:
        del node[key]
    else:
        node[key] = rng.choice((None, True, -1, 0, 1.5, 1e39, 2**70, "", "x", [], {}, [[]], float("nan"), "\ud800"))
    return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _deep(rng: random.Random, header: bytes) -> bytes:
    depth = rng.choice((100, DEEPEST))
    nested = rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    return re.sub(rb'("inputs": |"parameters": |"id": )', lambda found: found[0] + nested + b', "x": ', header, count=1)


# What surrounds a body.


def _header_length(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    right = int(request.headers["Inference-Header-Content-Length"])
    said = rng.choice(("-1", str(right - 1), str(right + 1), "7", str(10**9), str(2**64), "-5"))
    return attacker._posted("http header length", request._replace(headers={"Inference-Header-Content-Length": said}))


def _content_length(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    shorter = rng.randrange(len(request.body))
    said = rng.choice((str(shorter), str(len(request.body) + 10), "-1", "x", "", str(2**63), str(2**64 + 5), "1e3"))
    asked = request._replace(body=request.body[:shorter]).read if said == str(shorter) else None
    send = partial(_exchange, attacker.http, [request.encoded(length=said)], complete=False)
    return Attack(f"http content length {said:.5}", send, asked, closing=True)


def _odd_headers(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    lines = rng.choice(
        (
            ["X-Long: " + "a" * rng.choice((1_000, 60_000, 1_000_000))], [f"X-{i}: v" for i in range(2_000)],
            ["no colon"], [": no name"], ["X-Nul: a\0b"], ["X-Fold: a", " b"], ["X-\udcff: \udcfe"],
            ["Expect: 100-continue"], ["Connection: close"], ["Content-Type: application/xml"], ["X: a\rb"],
            ["Accept-Encoding: gzip;q=nonsense"], ["Transfer-Encoding: nonsense"], ["Upgrade: h2c"],
        )
    )  # fmt: skip
    send = partial(_exchange, attacker.http, [request.encoded(*lines)], complete=False)
    return Attack(f"http header {lines[0]:.12}", send, request.read, closing=True)


def _request_line(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    path = request.path
    first = rng.choice(
        (
            f"GET {path} HTTP/1.1", f"PUT {path} HTTP/1.1", f"DELETE {path} HTTP/1.1", f"BREW {path} HTTP/1.1",
            f"POST {path} HTTP/9.9", f"POST {path}", path, "POST", "\0\0\0", "POST  HTTP/1.1",
            f"POST http://elsewhere{path} HTTP/1.1", f"POST {path}?{'q' * 9_000} HTTP/1.1", "\x16\x03\x01\x02",
            f"HEAD {path} HTTP/1.1", f"OPTIONS {path} HTTP/1.1",
        )
    )  # fmt: skip
    send = partial(_exchange, attacker.http, [request.encoded(first=first)], complete=False)
    return Attack(f"http request line {first:.20}", send, request.read, closing=True)


def _chunked(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    size = max(rng.choice((1, 7, 1_000)), -(-len(request.body) // MOST_CHUNKS))
    parts = [request.body[start : start + size] for start in range(0, len(request.body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    end = rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"zz\r\n", b"-5\r\n\r\n", b"f" * 16 + b"\r\nx", b"f" * 40, b""))
    right = end.startswith(b"0")
    data = request.encoded("Transfer-Encoding: chunked", body=chunks + end, length=None)
    send = partial(_exchange, attacker.http, [data], complete=right)
    # Triton refuses texts that lie across its buffers.
    return Attack(f"http chunked {end!r:.12}", send, request.read if right else None, closing=not right)


def _compressed(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    body = rng.choice((gzip.compress(request.body), gzip.compress(request.body)[:-9], b"\x1f\x8b junk", bytes(100)))
    body = gzip.compress(bytes(1 << 22)) if rng.random() < 0.1 else body
    kind = rng.choice(("gzip", "gzip", "deflate", "br", "identity"))
    send = partial(_exchange, attacker.http, [request.encoded(f"Content-Encoding: {kind}", body=body)])
    return Attack(f"http compressed {kind}", send, request.read, closing=True)


def _in_time(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    """Slowly, a few bytes at a time; the headers are the slowest. A path in two pieces is none to Triton: HTTP 404."""
    data = request.encoded()
    line, head = data.index(b"\r\n"), data.index(b"\r\n\r\n") + 4
    step = -(-(len(data) - head) // 100) or 1
    pieces = [data[i : i + 1] for i in range(line, head)] + [data[i : i + step] for i in range(head, len(data), step)]
    pieces.insert(0, data[:line])
    return Attack("http slow", partial(_exchange, attacker.http, pieces, pause=0.001), request.read, valid=True)


def _broken_off(rng: random.Random, attacker: Attacker, request: _Post) -> Attack:
    data = request.encoded()
    part = data[: rng.randrange(1, len(data))]
    await_answer = rng.random() < 0.5
    return Attack(
        "http broken off",
        partial(_exchange, attacker.http, [part], complete=False, await_answer=await_answer),
        closing=True,
    )


def _channel(address: tuple[str, int]) -> Any:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel("{}:{}".format(*address), options=options)


def _frame(rng: random.Random) -> bytes:
    """An HTTP/2 frame, its length as likely a lie as not."""
    payload = rng.randbytes(rng.choice((0, 6, 30)))
    length = rng.choice((len(payload), len(payload), 0, 2**24 - 1))
    return length.to_bytes(3, "big") + bytes([rng.randrange(11), rng.randrange(256)]) + rng.randbytes(4) + payload


def _exchange(
    address: tuple[str, int],
    pieces: list[bytes],
    *,
    pause: float = 0.0,
    complete: bool = True,
    await_answer: bool = True,
) -> Reply:
    """Send, and read one HTTP answer; where the request is not `complete`, say that no more will come."""
    with socket.create_connection(address, timeout=DEADLINE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if not await_answer:
                # A reset rather than a farewell.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return Reply("dropped")
            if not complete:
                connection.shutdown(socket.SHUT_WR)
            return _read(connection)
        except TimeoutError:
            return Reply("silent")
        except OSError:
            return Reply("closed")


def _read(connection: socket.socket) -> Reply:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0 or len(received) < end + 4 + _number(
        received[:end], "Content-Length"
    ):
        data = connection.recv(1 << 16)
        if not data:
            break
        received += data
        if received.startswith(b"HTTP/1.1 100") and b"\r\n\r\n" in received:
            received = received.partition(b"\r\n\r\n")[2]
    if not received:
        return Reply("closed")
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status == 200:
        return Reply("answered", outputs=outputs_of_http(_value(head, "Inference-Header-Content-Length"), body))
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        # What the HTTP library below Triton refuses has a status and no body.
        message = head.splitlines()[0].decode(errors="replace")
    return Reply("refused" if status < 500 or status in (501, 503) else "internal", f"{status} {message}")


def _value(head: bytes, name: str) -> str | None:
    found = re.search(rb"(?im)^%s: *(\S+)" % name.encode(), head)
    return found[1].decode() if found else None


def _number(head: bytes, name: str) -> int:
    return int(_value(head, name) or 0)
