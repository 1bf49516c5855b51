"""What the python models of a Triton repository share: requests into batches, arrays into answers, counts.

Knows Triton only by `pb_utils`, the module of Triton's python backend, which a model hands over.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .batching import Part, stack
from .topics import TopicPredictor

# The id of requests that only ask whether a model answers: they are not counted.
CANARY = "bertopic-inference: canary"

COUNTERS = {
    "bertopic_texts_total": "Texts embedded",
    "bertopic_tokens_total": "Tokens of these texts, as far as the embedding model reads them",
    "bertopic_padding_tokens_total": "Tokens computed besides, so that texts of one call are of one length",
    "bertopic_truncated_texts_total": "Texts longer than the embedding model reads",
    "bertopic_rows_total": "Rows that were given a topic",
    "bertopic_outliers_total": "Rows among them that belong to no topic",
    "bertopic_invalid_requests_total": "Requests refused because what they held has no answer",
    "bertopic_turned_away_total": "Requests turned away because too many were waiting",
    "bertopic_topic_rows_total": "Rows given each of the largest topics; the others together are 'other'",
}
# BERTopic numbers topics by size. More series than this would burden whoever scrapes them.
_TOPICS_COUNTED = 100
_SECONDS_BETWEEN_COUNTS = 10.0
# Each is a message to Triton, of a millisecond on a busy machine: one batch must not wait for a hundred of them.
_COUNTS_A_BATCH = 16
_BEAT_SECONDS = 0.1
# Triton gives up on a process that it has not heard from for a second.
_LATE_SECONDS = 0.7


class Rows(Protocol):
    """An array, or what computes the rows of one when they are taken."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


class EmbeddingPlan(Protocol):
    """What `bertopic_embedder` knows about a batch of texts before it embeds them."""

    n_tokens: int
    n_padding: int
    n_truncated: int

    @property
    def n_texts(self) -> int: ...


class Computed:
    """Rows of an output that is too costly to compute for requests that do not ask for it."""

    def __init__(self, compute: Callable[[slice], NDArray[Any]]) -> None:
        self._compute = compute

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self._compute(rows)


def topic_outputs(predictor: TopicPredictor, reduced: NDArray[np.float32]) -> dict[str, Rows]:
    """What a model answers about reduced coordinates, float32 [n, n_components]: OUT, PROBABILITY and MEMBERSHIP."""
    topics, probabilities = predictor.predict(reduced)
    return {
        "OUT": topics[:, None],
        "PROBABILITY": probabilities[:, None],
        "MEMBERSHIP": Computed(lambda rows: predictor.membership(reduced[rows])),
    }


def sibling(args: Mapping[str, str], model: str) -> Path:
    """The version folder of another model of the same conversion, such as "umap"."""
    name = args["model_name"].rpartition("-")[0]
    return Path(args["model_repository"]).parent / f"{name}-{model}" / args["model_version"]


def device(args: Mapping[str, str]) -> int | None:
    """The GPU that Triton gives to an instance, if it does."""
    return int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None


def _is_canary(request: Any) -> bool:
    try:
        return bool(request.request_id() == CANARY)
    except UnicodeDecodeError:  # an id of other bytes
        return False


class Pulse:
    """Ends this process if it stood still for long, be it stopped, starved or on a machine that slept.

    Triton has then answered its requests with an error already, and would take its late answer for the answer
    to the next one. Whoever runs Triton starts it again.
    """

    def __init__(self) -> None:
        self._beat = time.monotonic()
        threading.Thread(target=self._run, daemon=True).start()

    def end_if_late(self) -> None:
        """To be called before answering."""
        if (late := time.monotonic() - self._beat) > _LATE_SECONDS:
            sys.stderr.write(f"this process stood still for {late:.1f} s: ending it, its answers come too late\n")
            sys.stderr.flush()
            os._exit(1)

    def _run(self) -> None:
        while True:
            time.sleep(_BEAT_SECONDS)
            self.end_if_late()
            self._beat = time.monotonic()


class Endpoint:
    """One instance of a python model, between Triton and a function from an array to arrays.

    Parameters
    ----------
    pb_utils : module
        `triton_python_backend_utils`.
    args : mapping
        What Triton passes to `initialize`. The model's config has the parameters `max_rows` of a request and
        `capacity`, the rows that are answered at once.
    check : callable
        Raises a ValueError for an array [n, ...] that must be refused.
    compute : callable
        From the rows of many requests to outputs by name.
    """

    def __init__(
        self,
        pb_utils: Any,
        args: Mapping[str, str],
        *,
        check: Callable[[NDArray[Any]], object],
        compute: Callable[[NDArray[Any]], Mapping[str, Rows]],
    ) -> None:
        self._pb_utils = pb_utils
        self._check = check
        self._compute = compute
        self._model = args["model_name"]
        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._max_rows = int(parameters["max_rows"])
        self._capacity = int(parameters["capacity"])
        self._counts: Counter[tuple[str, str]] = Counter()
        self._due: list[tuple[tuple[str, str], int]] = []
        self._metrics: dict[tuple[str, str], Any] = {}
        self._families: dict[str, Any] = {}
        self._pulse = Pulse()
        self._counting = True
        self._counted_at = time.monotonic()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order; a bad request is refused alone.

        Triton hands over whatever waits. What one batch has room for is answered, and the rest is turned
        away, so that waiting stays short. A bound on Triton's own queue would do the same, but with one
        Triton no longer prepares a batch while an instance is busy, and requests that come just before it
        is done are then noticed only by a timer of half a second.
        """
        self._counting = not all(map(_is_canary, requests))
        tensor = self._pb_utils.get_input_tensor_by_name
        arrays = [tensor(request, self._input).as_numpy() for request in requests]
        accepted = self._room_for(arrays)
        responses = self._answer(requests[:accepted], arrays[:accepted])
        responses += [self._turned_away() for _ in requests[accepted:]]
        self.count("bertopic_turned_away_total", len(requests) - accepted)
        self._pass_counts_on()
        self._pulse.end_if_late()
        return responses

    def _room_for(self, arrays: Sequence[NDArray[Any]]) -> int:
        """How many of the requests, counted from the oldest, fit into a batch."""
        rows = np.cumsum([len(array) if len(array) <= self._max_rows else 0 for array in arrays])
        return int(np.searchsorted(rows, self._capacity, side="right"))

    def _turned_away(self) -> Any:
        error = self._pb_utils.TritonError(
            f"{self._model} has more to do than it can answer soon (capacity: {self._capacity} rows a batch)",
            self._pb_utils.TritonError.UNAVAILABLE,
        )
        return self._pb_utils.InferenceResponse(error=error)

    def count(self, name: str, n: int, topic: str = "") -> None:
        """Add to one of COUNTERS; what only a canary asked for does not count."""
        if self._counting:
            self._counts[name, topic] += n

    def count_texts(self, plan: EmbeddingPlan) -> None:
        """Count the texts of a batch and what became of them."""
        self.count("bertopic_texts_total", plan.n_texts)
        self.count("bertopic_tokens_total", plan.n_tokens)
        self.count("bertopic_padding_tokens_total", plan.n_padding)
        self.count("bertopic_truncated_texts_total", plan.n_truncated)

    def count_topics(self, topics: NDArray[np.int32]) -> None:
        """Count the topics, int32 [n], that rows were given."""
        self.count("bertopic_rows_total", len(topics))
        by_topic = np.bincount(np.minimum(topics, _TOPICS_COUNTED) + 1).tolist()
        self.count("bertopic_outliers_total", by_topic[0])
        for topic, n in enumerate(by_topic, start=-1):
            if n:
                self.count("bertopic_topic_rows_total", n, "other" if topic == _TOPICS_COUNTED else str(topic))

    def _answer(self, requests: Sequence[Any], arrays: Sequence[NDArray[Any]]) -> list[Any]:
        batch, parts = stack(arrays, self._check, max_rows=self._max_rows)
        self.count("bertopic_invalid_requests_total", sum(part.error is not None for part in parts))
        try:
            outputs = {} if batch is None else self._compute(batch)
        except self._pb_utils.TritonModelException as error:
            # A model that this one calls did not answer, which may pass.
            unavailable = self._pb_utils.TritonError(str(error), self._pb_utils.TritonError.UNAVAILABLE)
            return [self._pb_utils.InferenceResponse(error=unavailable) for _ in requests]
        return [self._response(request, part, outputs) for request, part in zip(requests, parts, strict=True)]

    def _response(self, request: Any, part: Part, outputs: Mapping[str, Rows]) -> Any:
        if part.error is not None:
            refused = self._pb_utils.TritonError(str(part.error), self._pb_utils.TritonError.INVALID_ARG)
            return self._pb_utils.InferenceResponse(error=refused)
        return self._pb_utils.InferenceResponse(
            [self._pb_utils.Tensor(name, outputs[name][part.rows]) for name in request.requested_output_names()]
        )

    def _pass_counts_on(self) -> None:
        """Hand what was counted to Triton, every few seconds and in small portions."""
        if not self._due and time.monotonic() - self._counted_at > _SECONDS_BETWEEN_COUNTS:
            self._due = list(self._counts.items())
            self._counts.clear()
            self._counted_at = time.monotonic()
        for (name, topic), n in self._due[:_COUNTS_A_BATCH]:
            self._metric(name, topic).increment(n)
        del self._due[:_COUNTS_A_BATCH]

    def _metric(self, name: str, topic: str) -> Any:
        if (name, topic) not in self._metrics:
            if name not in self._families:
                kind = self._pb_utils.MetricFamily.COUNTER
                self._families[name] = self._pb_utils.MetricFamily(name=name, description=COUNTERS[name], kind=kind)
            labels = {"model": self._model, **({"topic": topic} if topic else {})}
            self._metrics[name, topic] = self._families[name].Metric(labels=labels)
        return self._metrics[name, topic]
