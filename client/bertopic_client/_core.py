"""The client without its I/O: which requests answer a question, and what their answers come to.

A question is a generator that yields requests, is sent their answers or has their error thrown into it, and
returns the result. Each client drives it over its own transports, so that all of them share every line of this.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ._address import Address, parse
from ._exceptions import ClientClosed, InvalidInput, ServerError
from ._inputs import TEXT, Batch, encode, encode_chunk, encode_texts, split
from ._outcomes import VersionGone
from ._prediction import Output, Prediction, TopicAssignment
from ._requests import Infer, Readiness, Request, RowLimit, Tensors
from ._retry import Attempts
from ._security import Credentials, Tls
from ._servers import Servers
from ._topics import Topic, decode_topics

T = TypeVar("T")
Transport = TypeVar("Transport")
Question: TypeAlias = Generator[Sequence[Request], Any, T]
OnError: TypeAlias = Literal["raise", "return"]

OUTPUT_TENSORS: dict[Output, str] = {"membership": "MEMBERSHIP", "reduced": "REDUCED", "embeddings": "EMBEDDING"}
# How many rows of a stream are encoded, asked about and handed out together.
CHUNK_ROWS = 512
# How many versions of the model are told apart: one that is being replaced, its successor, and some to spare.
KEPT_VERSIONS = 4
# How often a question is asked anew because the model was replaced while it was asked.
REPLACEMENTS = 5


class BaseTopicClient(Generic[Transport]):
    """What every client knows: its servers, the models' names, their row limits and the topics' labels."""

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        timeout: float,
        attempt_timeout: float | None,
        retries: int,
        max_in_flight: int,
        tls: Tls | None,
        headers: Mapping[str, str] | None,
        connect: Callable[[Address, Credentials], Transport],
    ) -> None:
        for name, seconds in (("timeout", timeout), ("attempt_timeout", attempt_timeout)):
            if seconds is not None and not seconds > 0:
                raise InvalidInput(f"{name}={seconds}: expected seconds above 0.")
        if retries < 0:
            raise InvalidInput(f"retries={retries}: expected 0 or more.")
        if max_in_flight < 1:
            raise InvalidInput(f"max_in_flight={max_in_flight}: expected 1 or more.")
        self._addresses = [parse(one) for one in ([url] if isinstance(url, str) else url)]
        if not self._addresses:
            raise InvalidInput(f"url={url!r}: expected a URL, or a list of at least one.")
        credentials = Credentials.of(tls, headers, self._addresses)
        self._servers = Servers([connect(address, credentials) for address in self._addresses])
        self._model = model
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout
        self._retries = retries
        self._max_in_flight = max_in_flight
        self._closed = False
        self._row_limits: dict[str, int] = {}
        self._labels: dict[str, Mapping[int, str]] = {}

    def __repr__(self) -> str:
        urls = [str(address) for address in self._addresses]
        return f"{type(self).__name__}({urls[0] if len(urls) == 1 else urls!r}, model={self._model!r})"

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed(f"{self!r} is closed: make a new one.")

    def _attempts(self) -> Attempts[Transport]:
        return Attempts(self._servers, self._retries, self._timeout, self._attempt_timeout)

    def _predict(self, inputs: object, outputs: Iterable[Output]) -> Question[Prediction]:
        batch = encode(inputs)
        return self._prediction(batch, range(len(batch.rows)), _extra_tensors(outputs, batch))

    def _embed(self, texts: object) -> Question[npt.NDArray[np.float32]]:
        batch = encode_texts(texts)
        rows = range(len(batch.rows))
        answer, _ = yield from _of_one_version(lambda: self._infer("embedder", batch, rows, ("EMBEDDING",)))
        return answer["EMBEDDING"]

    def _topics(self, version: str = "") -> Question[list[Topic]]:
        everything = np.empty(0, np.int32)
        [answer] = yield [Infer(f"{self._model}-topics", {"TOPIC": everything}, ("JSON",), version=version)]
        topics = decode_topics(answer.tensors["JSON"])
        others = [(version, labels) for version, labels in self._labels.items() if version != answer.version]
        self._labels = dict([*others[1 - KEPT_VERSIONS :], (answer.version, _label_of(topics))])
        return topics

    def _assign(
        self, items: Sequence[object], first: int, on_error: OnError
    ) -> Question[list[TopicAssignment | InvalidInput]]:
        """The topics of a stream's rows from `first` on; asks one request at a time."""
        chunk = encode_chunk(items, first)
        if chunk.refused and on_error == "raise":
            raise next(iter(chunk.refused.values()))
        found: dict[int, TopicAssignment | InvalidInput] = {**chunk.refused}
        for rows, batch in chunk.batches:
            limit = yield from self._row_limit(f"{self._model}-{_kind(batch)}")
            waiting = [list(range(part.start, part.stop)) for part in reversed(split(len(rows), limit))]
            while waiting:
                part = waiting.pop()
                asked = [rows[i] for i in part]
                try:
                    prediction = yield from self._prediction(Batch(batch.tensor, batch.rows[part]), asked, {})
                except InvalidInput as error:
                    nobodys_fault = error.row is None and len(part) == 1
                    if on_error == "raise" or nobodys_fault:
                        raise
                    if error.row is None:
                        # One of them, or all: halves tell.
                        waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
                        continue
                    found[error.row] = error
                    if rest := [i for i in part if rows[i] != error.row]:
                        waiting.append(rest)
                else:
                    found.update(zip(asked, prediction, strict=True))
        return [found[i] for i in range(first, first + len(items))]

    def _readiness(self) -> list[Readiness]:
        return [Readiness(f"{self._model}-{kind}") for kind in ("text", "inference", "embedder", "topics")]

    def _prediction(self, batch: Batch, rows: Sequence[int], extra: Mapping[Output, str]) -> Question[Prediction]:
        def ask() -> Question[Prediction]:
            answer, version = yield from self._infer(_kind(batch), batch, rows, ("OUT", "PROBABILITY", *extra.values()))
            topics = answer["OUT"].astype(np.int32).reshape(-1)
            labels = yield from self._labels_for(topics, version)
            return Prediction(
                topics,
                answer["PROBABILITY"].reshape(-1),
                labels,
                {output: answer[tensor] for output, tensor in extra.items()},
                version,
            )

        return _of_one_version(ask)

    def _infer(
        self, kind: str, batch: Batch, rows: Sequence[int], outputs: tuple[str, ...]
    ) -> Question[tuple[Tensors, str]]:
        """Ask about all rows, in as many requests as it takes, and join the answers of one version in order."""
        n_rows = len(batch.rows)
        if n_rows == 0:
            return {name: np.empty((0, 0), np.float32) for name in outputs}, ""
        model = f"{self._model}-{kind}"
        limit = yield from self._row_limit(model)
        requests = [
            Infer(model, {batch.tensor: batch.rows[part]}, outputs, rows[part]) for part in split(n_rows, limit)
        ]
        answers = yield requests
        newest = max((answer.version for answer in answers), key=_age)
        if old := [i for i, answer in enumerate(answers) if answer.version != newest]:
            renewed = yield [replace(requests[i], version=newest) for i in old]
            for i, answer in zip(old, renewed, strict=True):
                answers[i] = answer
        joined = {name: np.concatenate([answer.tensors[name] for answer in answers]) for name in outputs}
        for name, values in joined.items():
            if len(values) != n_rows:
                raise ServerError(f"{model!r} answered {len(values)} rows of {name}, expected {n_rows}.")
        return joined, newest

    def _row_limit(self, model: str) -> Question[int]:
        if model not in self._row_limits:
            [limit] = yield [RowLimit(model)]
            self._row_limits[model] = limit
        return self._row_limits[model]

    def _labels_for(self, topics: npt.NDArray[np.int32], version: str) -> Question[Mapping[int, str]]:
        """The labels of one version's topics, read when first needed and again when a topic is new."""
        needed = set(np.unique(topics).tolist())
        labels = self._labels.get(version, {})
        if not needed <= labels.keys():
            labels = _label_of((yield from self._topics(version)))
        if unlabelled := needed - labels.keys():
            raise ServerError(
                f"The server answered topic {min(unlabelled)}, which is none of the {len(labels)} topics of "
                f"'{self._model}-topics'. Convert the model anew: its parts do not belong together."
            )
        return labels


def check_stream(inputs: object, on_error: object) -> None:
    """Raise `InvalidInput` for what cannot be streamed, before the first row is asked for."""
    if on_error not in ("raise", "return"):
        raise InvalidInput(f"on_error={on_error!r}: expected 'raise' or 'return'.")
    if isinstance(inputs, (str, bytes)) or not (hasattr(inputs, "__iter__") or hasattr(inputs, "__aiter__")):
        raise InvalidInput(
            f"Got a single {type(inputs).__name__}, expected an iterable of str or of 1-D embeddings: write [text]."
        )


def _of_one_version(ask: Callable[[], Question[T]]) -> Question[T]:
    """The result of a question, asked anew if the version that answered is gone before it has said everything."""
    for _ in range(REPLACEMENTS):
        try:
            return (yield from ask())
        except VersionGone as error:
            gone = error
    raise gone


def _label_of(topics: Iterable[Topic]) -> dict[int, str]:
    return {topic.id: topic.label for topic in topics}


def _kind(batch: Batch) -> str:
    return "text" if batch.tensor == TEXT else "inference"


def _age(version: str) -> tuple[int, str]:
    # Triton counts versions from 1: the longer number is the larger one.
    return len(version), version


def _extra_tensors(outputs: Iterable[Output], batch: Batch) -> dict[Output, str]:
    wanted = list(outputs)
    if not OUTPUT_TENSORS.keys() >= set(wanted):
        raise InvalidInput(f"outputs={outputs!r}: expected a list of any of {', '.join(OUTPUT_TENSORS)}.")
    if "embeddings" in wanted and batch.tensor != TEXT:
        raise InvalidInput("outputs=['embeddings'] goes with texts: the input here is embeddings already.")
    return {output: OUTPUT_TENSORS[output] for output in wanted}
