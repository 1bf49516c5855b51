"""What a request asks for, by the bytes that were sent, and whether its answer is the right one."""

from __future__ import annotations

import json
import math
import re
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bertopic_embedder import Embedder, OnnxEncoder, Tokenizer, decode
from bertopic_engine import TopicPredictor, UmapTransform
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

DTYPES: dict[str, Any] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}
NAMES = {11: "FP32", 8: "INT32", 9: "INT64", 13: "BYTES"}
CONTENTS = {"FP32": "fp32_contents", "INT32": "int_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


class Unsound(ValueError):
    """A request that has no answer."""


class Unreadable(ValueError):
    """A request that may have an answer: one protobuf library reads it, another does not."""


@dataclass
class Tensor:
    """An input as it travels: `data` are the tensor's bytes, whatever the shape says."""

    name: str
    datatype: str
    shape: list[Any]
    data: bytes
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class Draft:
    """A request as either protocol can carry it."""

    model: str
    inputs: list[Tensor]
    outputs: list[tuple[str, dict[str, Any]]]
    version: str = ""
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


class Reply(NamedTuple):
    """What came back: 'answered', 'refused', 'internal', 'closed' without a word, 'dropped' by us, or 'silent'."""

    kind: str
    message: str = ""
    outputs: Mapping[str, Any] = {}


class Oracle:
    """The served models in process."""

    def __init__(self, repository: Path) -> None:
        folder = {path.name.rpartition("-")[2]: path / "1" for path in repository.glob("BERTopic-*")}
        self.configs = {
            path.parent.name: text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
            for path in sorted(repository.glob("*/config.pbtxt"))
        }
        self.tokenizer = Tokenizer.load(folder["tokenizer"])
        self.encoder = OnnxEncoder.load(folder["bert"])
        self.umap = UmapTransform.load(folder["umap"])
        self.predictor = TopicPredictor.load(folder["hdbscan"])
        topics = json.loads((folder["topics"] / "topics.json").read_text(encoding="utf-8"))
        self.topics = {topic["id"]: topic for topic in topics}
        self._embedder = Embedder(self.tokenizer, self.encoder)
        self._embedded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def embed(self, texts: list[str]) -> Any:
        """Float32 [n, dim]; each text is embedded once."""
        with self._lock:
            if new := [text for text in dict.fromkeys(texts) if text not in self._embedded]:
                self._embedded.update(zip(new, self._embedder.encode(new), strict=True))
            return np.stack([self._embedded[text] for text in texts])

    def answer(self, draft: Draft) -> dict[str, Any]:
        """The outputs of a draft's model; raises ValueError where the draft must be refused."""
        model = _name(draft.model)
        config = self.configs.get(model)
        # Triton takes a version's leading digits.
        if config is None or (draft.version and re.match(r"\s*\+?(\d+)|", draft.version)[1] != "1"):
            raise Unsound("no such model")
        expected = {tensor.name: tensor for tensor in config.input}
        known = {tensor.name for tensor in config.output}
        inputs = {_name(tensor.name): tensor for tensor in draft.inputs}
        wanted = {_name(name) for name, _ in draft.outputs} or known
        if len(draft.inputs) != len(expected) or inputs.keys() != expected.keys():
            raise Unsound("other inputs")
        if not wanted <= known:
            raise Unsound("unknown outputs")
        given = {name: _array(tensor, expected[name], config) for name, tensor in inputs.items()}
        outputs = self._compute(model.rpartition("-")[2], given)
        return {name: outputs[name] for name in wanted}

    def _compute(self, model: str, given: dict[str, Any]) -> dict[str, Any]:
        match model:
            case "topics":
                ids = given["TOPIC"].tolist() or list(self.topics)
                if not set(ids) <= self.topics.keys():
                    raise Unsound("unknown topics")
                return {"JSON": [self.topics[topic] for topic in ids]}
            case "bert":
                return {"EMBEDDING": self._encode(given["INPUT_IDS"], given["ATTENTION_MASK"])}
            case "tokenizer":
                tokens = self.tokenizer.tokenize(decode(given["TEXT"]))
                return {"INPUT_IDS": tokens.input_ids, "ATTENTION_MASK": tokens.attention_mask}
            case "embedder":
                return {"EMBEDDING": self.embed(decode(given["TEXT"]))}
            case "umap":
                return {"REDUCED": self.umap.transform(given["IN"])}
            case "hdbscan":
                return self._topics(given["REDUCED"])
        embeddings = self.embed(decode(given["TEXT"])) if model == "text" else given["IN"]
        return {"EMBEDDING": embeddings, **self._topics(self.umap.transform(embeddings))}

    def _topics(self, reduced: Any) -> dict[str, Any]:
        self.predictor.check(reduced)
        topics, probabilities = self.predictor.predict(reduced)
        membership = self.predictor.membership(reduced)
        return {"OUT": topics, "PROBABILITY": probabilities, "MEMBERSHIP": membership, "REDUCED": reduced}

    def _encode(self, input_ids: Any, attention_mask: Any) -> Any:
        if input_ids.shape != attention_mask.shape or not np.isin(attention_mask, (0, 1)).all() or input_ids.min() < 0:
            raise Unsound("no tokens with their mask")
        try:
            return self.encoder.encode(input_ids, attention_mask)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise Unsound(str(error)) from error


def complaint(reply: Reply, draft: Callable[[], Draft] | None, oracle: Oracle, *, valid: bool) -> str | None:
    """What is wrong with a reply to a request, if anything is.

    Parameters
    ----------
    reply : Reply
        Answered or refused.
    draft : callable, optional
        What was asked; raises ValueError where nothing was. None if no answer is right.
    oracle : Oracle
    valid : bool
        Nothing but the right answer will do.
    """
    if reply.kind == "refused":
        if valid:
            return f"a valid request was refused: {reply.message}"
        return None if reply.message else "refused without a word"
    if draft is None:
        return "answered, where nothing should be"
    try:
        asked = draft()
        expected = oracle.answer(asked)
    except Unreadable:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"answered, although {error!r}"
    if reply.outputs.keys() != expected.keys():
        return f"answered {sorted(reply.outputs)}, expected {sorted(expected)}"
    parameters = dict(asked.outputs)
    for name, values in expected.items():
        if not _agree(reply.outputs[name], values, parameters.get(name, {}).get("classification", 0)):
            return f"{name} is {reply.outputs[name]!r:.300}, expected {values!r:.300}"
    return None


def read_http(model: str, version: str, header_length: str | None, body: bytes) -> Draft:
    """The draft that an HTTP body carries."""
    length = len(body) if header_length is None else int(header_length)
    header, rest = body[:length].partition(b"\0")[0], body[length:]
    # Of a repeated key, Triton takes the first.
    content = json.loads(header.decode("utf-8", "surrogateescape"), object_pairs_hook=lambda p: dict(reversed(p)))
    inputs = []
    for tensor in content["inputs"]:
        parameters = _parameters(tensor)
        size = parameters.get("binary_data_size")
        if size is None:
            # Where there are no elements, Triton does not look for any.
            data = b"" if 0 in tensor["shape"] else _from_json(tensor["data"], tensor["datatype"])
        else:
            data, rest = rest[:size], rest[size:]
            if len(data) != size:
                raise Unsound("less data than said")
        if any(type(n) is not int or n < 0 for n in tensor["shape"]):
            raise Unsound("no shape")
        inputs.append(Tensor(tensor["name"], tensor["datatype"], tensor["shape"], data, parameters))
    if rest:
        raise Unsound("more data than said")
    outputs = [(output["name"], _parameters(output)) for output in content.get("outputs", [])]
    return Draft(model, inputs, outputs, version)


def _parameters(tensor: dict[str, Any]) -> dict[str, Any]:
    """Triton overlooks parameters that are no object."""
    parameters = tensor.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def read_grpc(message: Any) -> Draft:
    """The draft that a ModelInferRequest carries."""
    raw = list(message.raw_input_contents)
    inputs = []
    for i, tensor in enumerate(message.inputs):
        if raw:
            data = raw[i]
        else:
            values = list(getattr(tensor.contents, CONTENTS.get(tensor.datatype, "bool_contents")))
            data = length_prefixed(values) if tensor.datatype == "BYTES" else np.array(values, DTYPES[tensor.datatype])
        inputs.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), bytes(data)))
    outputs = [
        (output.name, {name: value.int64_param for name, value in output.parameters.items()})
        for output in message.outputs
    ]
    return Draft(message.model_name, inputs, outputs, message.model_version)


def outputs_of_http(header_length: str | None, body: bytes) -> dict[str, Any]:
    """The outputs in an HTTP answer, flat."""
    length = int(header_length or len(body))
    rest = body[length:]
    outputs = {}
    # An id comes back as it was given, text or not.
    for output in json.loads(body[:length].decode("utf-8", "replace"))["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(output["data"], object if output["datatype"] == "BYTES" else None)
        else:
            data, rest = rest[:size], rest[size:]
            values = _decoded(data, output["datatype"])
        outputs[output["name"]] = values
    return outputs


def outputs_of_grpc(message: Any) -> dict[str, Any]:
    """The outputs in a ModelInferResponse, flat."""
    return {
        output.name: _decoded(data, output.datatype)
        for output, data in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def length_prefixed(texts: list[bytes]) -> bytes:
    """BYTES elements as they travel."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _name(name: str) -> str:
    """As Triton reads names, and C strings."""
    return name.partition("\0")[0]


def _array(tensor: Tensor, expected: Any, config: Any) -> Any:
    if tensor.datatype != NAMES[expected.data_type]:
        raise Unsound("another type")
    if "shared_memory_region" in tensor.parameters:
        raise Unsound("no such region")
    shape, dims = list(tensor.shape), list(expected.dims)
    if len(shape) != len(dims) + bool(config.max_batch_size):
        raise Unsound("another rank")
    if config.max_batch_size:
        # Triton counts rows in 32 bits, and takes none as one row without a batch dimension.
        shape[0] = shape[0] % 2**32 or 1
        if shape[0] > int(config.parameters["max_rows"].string_value or config.max_batch_size):
            raise Unsound("too many rows")
        dims = [shape[0], *dims]
    if any(dim not in (-1, n) for dim, n in zip(dims, shape, strict=True)):
        raise Unsound("another shape")
    values = _decoded(tensor.data, tensor.datatype)
    if len(values) != math.prod(shape):
        raise Unsound("data of another size")
    return values.reshape(shape)


def _decoded(data: bytes, datatype: str) -> Any:
    if datatype != "BYTES":
        return np.frombuffer(data, DTYPES[datatype])
    texts, place = [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<I", data.ljust(place + 4, b"\xff"), place)
        if place + 4 + length > len(data):
            raise Unsound("a text longer than the data")
        texts.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    values = np.empty(len(texts), object)
    values[:] = texts
    return values


def _from_json(data: Any, datatype: str) -> bytes:
    values = []
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        else:
            values.append(value)
    if datatype == "BYTES":
        return length_prefixed([value.encode("utf-8", "surrogateescape") for value in values])
    if any(isinstance(value, (bool, str)) for value in values):
        raise Unsound("no numbers")
    with np.errstate(over="ignore"):
        return np.array(values).astype(DTYPES[datatype]).tobytes()


def _agree(answered: Any, expected: Any, classes: int) -> bool:
    if isinstance(expected, list):
        return [json.loads(record) for record in answered] == expected
    # Triton keeps 32 bits of the number of classes.
    if classes % 2**32:
        return _are_classes(answered, np.asarray(expected), classes % 2**32)
    if classes:
        return len(answered) in (0, expected.size)
    if expected.dtype.kind == "i":
        return np.array_equal(answered, expected.reshape(-1))
    return np.shape(answered) == (expected.size,) and np.allclose(
        np.array(answered, np.float32), expected.reshape(-1), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def _are_classes(answered: Any, expected: Any, classes: int) -> bool:
    """Whether 'value:index' elements are the largest values of each row."""
    rows = expected.reshape(len(expected), -1)
    kept = min(classes, rows.shape[1])
    pairs = [(text.decode() if isinstance(text, bytes) else text).split(":")[:2] for text in answered]
    values = np.array([float(value) for value, _ in pairs]).reshape(len(rows), kept)
    places = np.array([int(place) for _, place in pairs]).reshape(len(rows), kept)
    largest = -np.sort(-rows, axis=1)[:, :kept]
    return bool(
        np.allclose(np.take_along_axis(rows, places, 1), values, atol=1e-5, rtol=1e-4)
        and np.allclose(values, largest, atol=1e-5, rtol=1e-4)
    )
