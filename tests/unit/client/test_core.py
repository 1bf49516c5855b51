"""The questions, driven by hand: what they ask, and what they make of the answers."""

import json
from contextlib import suppress

import numpy as np
import pytest
from bertopic_client import AsyncTopicClient, InvalidInput, NotReady, ServerError, TopicClient, TopicClientError
from bertopic_client._core import KEPT_VERSIONS
from bertopic_client._outcomes import VersionGone
from bertopic_client._requests import Answer, Infer, Readiness, RowLimit

ROW_LIMIT = 4
N_TOPICS = 3


def topic_record(topic, label="label"):
    return json.dumps({"id": topic, "label": f"{label} {topic}", "keywords": [], "size": 1}).encode()


def answer(request, version="1"):
    """What a server would answer whose topics are the first column, and whose texts have their length as embedding."""
    if isinstance(request, RowLimit):
        return ROW_LIMIT
    if request.model.endswith("-topics"):
        label = "label" if version == "1" else f"label of version {version},"
        return Answer(
            {"JSON": np.array([topic_record(topic, label) for topic in range(-1, N_TOPICS)], object)}, version
        )
    [rows] = request.inputs.values()
    if request.model.endswith(("-text", "-embedder")):
        rows = np.array([[len(text)] for text in rows[:, 0]], np.float32)
    tensors = {
        "OUT": rows[:, :1].astype(np.int32),
        "PROBABILITY": rows[:, :1] / 10,
        "MEMBERSHIP": np.repeat(rows[:, :1], N_TOPICS, axis=1),
        "REDUCED": rows[:, :1] * [1, 2],
        "EMBEDDING": rows,
    }
    return Answer({name: tensors[name] for name in request.outputs}, version)


def drive(question, answer=answer):
    asked = []
    try:
        requests = next(question)
        while True:
            asked += requests
            try:
                answers = [answer(request) for request in requests]
            except TopicClientError as error:
                requests = question.throw(error)
            else:
                requests = question.send(answers)
    except StopIteration as end:
        return end.value, asked


@pytest.fixture
def client():
    return TopicClient("grpc://localhost", model="M")


def test_embeddings_are_cut_asked_about_and_joined_in_order(client):
    rows = np.array([[i % N_TOPICS, i] for i in range(10)], np.float64)
    prediction, asked = drive(client._predict(rows, ()))
    limit, *parts, topics = asked
    assert limit == RowLimit("M-inference")
    assert [(part.model, part.rows, part.outputs) for part in parts] == [
        ("M-inference", range(3), ("OUT", "PROBABILITY")),
        ("M-inference", range(3, 6), ("OUT", "PROBABILITY")),
        ("M-inference", range(6, 10), ("OUT", "PROBABILITY")),
    ]
    np.testing.assert_array_equal(np.concatenate([part.inputs["IN"] for part in parts]), rows)
    assert topics.model == "M-topics"
    assert topics.inputs["TOPIC"].shape == (0,)
    assert prediction.topics.tolist() == [i % N_TOPICS for i in range(10)]
    assert prediction.topics.dtype == np.int32
    assert prediction.probabilities.dtype == np.float32
    assert prediction.labels == [f"label {i % N_TOPICS}" for i in range(10)]


def test_texts_are_asked_about_as_text(client):
    prediction, asked = drive(client._predict(["", "a", "ä", "ab", "abc"[:2]], ()))
    assert {request.model for request in asked} == {"M-text", "M-topics"}
    assert asked[1].inputs["TEXT"].tolist() == [[b""], [b"a"]]
    assert prediction.topics.tolist() == [0, 1, 2, 2, 2]


def test_row_limits_and_labels_are_asked_for_once(client):
    drive(client._predict(["a"], ()))
    _, asked = drive(client._predict(["", "b"], ()))
    assert [type(request) for request in asked] == [Infer]
    assert asked[0].model == "M-text"


def test_a_new_topic_renews_the_labels(client):
    client._labels = {"1": {0: "old label"}}
    prediction, asked = drive(client._predict(["a"], ()))
    assert asked[-1].model == "M-topics"
    assert prediction.labels == ["label 1"]


def test_a_topic_that_the_server_does_not_know_itself(client):
    with pytest.raises(ServerError, match="topic 7, which is none of the 4 topics of 'M-topics'"):
        drive(client._predict(["seven!!"], ()))


def test_outputs_are_asked_for_and_joined(client):
    prediction, asked = drive(client._predict(["a", "bb"] * 3, ["reduced", "membership", "embeddings"]))
    assert asked[1].outputs == ("OUT", "PROBABILITY", "REDUCED", "MEMBERSHIP", "EMBEDDING")
    assert prediction.reduced.tolist() == [[1, 2], [2, 4]] * 3
    assert prediction.membership.shape == (6, N_TOPICS)
    assert prediction.embeddings.tolist() == [[1], [2]] * 3


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["a"], "membership", "outputs='membership': expected a list"),
        (["a"], ["members"], r"outputs=\['members'\].*membership, reduced, embeddings"),
        (np.zeros((1, 2)), ["embeddings"], "embeddings already"),
    ],
)
def test_outputs_that_do_not_exist(client, inputs, outputs, message):
    with pytest.raises(InvalidInput, match=message):
        drive(client._predict(inputs, outputs))


@pytest.mark.parametrize("empty", [[], np.empty((0, 384), np.float32)], ids=["texts", "embeddings"])
def test_an_empty_input_asks_nothing(client, empty):
    prediction, asked = drive(client._predict(empty, ["reduced"]))
    assert asked == []
    assert len(prediction) == 0
    assert list(prediction) == prediction.labels == []
    assert (prediction.topics.dtype, prediction.probabilities.dtype) == (np.int32, np.float32)


def test_embed(client):
    embeddings, asked = drive(client._embed(["a", "bb", "ccc", "dddd", "e"]))
    assert {request.model for request in asked} == {"M-embedder"}
    assert embeddings.tolist() == [[1], [2], [3], [4], [1]]
    assert drive(client._embed([]))[0].shape == (0, 0)


def test_an_answer_of_too_few_rows(client):
    def short(request):
        if isinstance(request, Infer):
            tensors, version = answer(request)
            return Answer({name: values[1:] for name, values in tensors.items()}, version)
        return answer(request)

    with pytest.raises(ServerError, match="'M-text' answered 2 rows of OUT, expected 3"):
        drive(client._predict(["a", "b", "c"], ()), short)


def test_a_model_without_batches_gets_one_row_at_a_time(client):
    def unbatched(request):
        return 1 if isinstance(request, RowLimit) else answer(request)

    prediction, asked = drive(client._predict(["a", "bb"], ()), unbatched)
    assert [request.rows for request in asked[1:3]] == [range(1), range(1, 2)]
    assert prediction.topics.tolist() == [1, 2]


def test_readiness_covers_every_model_that_a_client_asks(client):
    assert client._readiness() == [Readiness(f"M-{kind}") for kind in ("text", "inference", "embedder", "topics")]


@pytest.mark.parametrize("kind", [TopicClient, AsyncTopicClient])
@pytest.mark.parametrize(
    "setting",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"attempt_timeout": -1},
        {"retries": -1},
        {"max_in_flight": 0},
        {"url": []},
    ],
    ids=str,
)
def test_settings_out_of_range(kind, setting):
    [name] = setting
    with pytest.raises(InvalidInput, match=name):
        kind(**setting)


def test_what_a_client_calls_itself():
    assert repr(TopicClient("grpc://a")) == "TopicClient('grpc://a:8001', model='BERTopic')"
    urls = ["grpc://a", "http://b"]
    assert repr(TopicClient(urls, model="M")) == "TopicClient(['grpc://a:8001', 'http://b:8000'], model='M')"


class Replaced:
    """A server that puts version 2 in place of version 1 after `n_old` inferences."""

    def __init__(self, n_old, keeps_old=True):
        self.n_old = n_old
        self.keeps_old = keeps_old

    def __call__(self, request):
        if isinstance(request, RowLimit):
            return answer(request)
        version = request.version or ("1" if self.n_old > 0 else "2")
        if request.model != "M-topics":
            self.n_old -= 1
        gone = {"2"} if self.n_old > 0 else set() if self.keeps_old and request.model == "M-topics" else {"1"}
        if request.version in gone:
            raise VersionGone(f"version {request.version} is gone")
        return answer(request, version)


def test_a_prediction_is_wholly_of_the_newest_version(client):
    prediction, asked = drive(client._predict(["", "a", "bb"] * 4, ()), Replaced(n_old=2))
    assert prediction.model_version == "2"
    assert prediction.labels == [f"label of version 2, {i}" for i in (0, 1, 2)] * 4
    renewed = [request.rows for request in asked if isinstance(request, Infer) and request.version == "2"]
    assert renewed == [range(4), range(4, 8), ()]


def test_versions_are_compared_as_numbers(client):
    versions = iter(["9", "10", "10"])

    def counting(request):
        return answer(request, next(versions, "10"))

    client._row_limits["M-text"] = ROW_LIMIT
    prediction, _ = drive(client._predict(["a"] * 8, ()), counting)
    assert prediction.model_version == "10"


def test_labels_are_those_of_the_version_that_answered(client):
    old, asked = drive(client._predict(["a"], ()), Replaced(n_old=1))
    assert (old.model_version, old.labels) == ("1", ["label 1"])
    assert asked[-1].version == "1"
    new, _ = drive(client._predict(["a"], ()), Replaced(n_old=0))
    assert (new.model_version, new.labels) == ("2", ["label of version 2, 1"])
    assert old.labels == ["label 1"]
    _, asked = drive(client._predict(["a"], ()), Replaced(n_old=1))
    assert [request.model for request in asked] == ["M-text"]


def test_a_prediction_whose_topics_are_gone_is_asked_anew(client):
    prediction, asked = drive(client._predict(["a"], ()), Replaced(n_old=1, keeps_old=False))
    assert prediction.model_version == "2"
    assert [request.version for request in asked if isinstance(request, Infer)] == ["", "1", "", "2"]


def test_a_model_that_is_replaced_without_end(client):
    def restless(request):
        if getattr(request, "version", ""):
            raise VersionGone("gone")
        return answer(request)

    with pytest.raises(NotReady, match="gone"):
        drive(client._predict(["a"], ()), restless)


def test_labels_of_few_versions_are_kept(client):
    for version in range(1, 10):
        drive(client._topics(), lambda request, version=version: answer(request, str(version)))
    assert list(client._labels) == [str(version) for version in range(10 - KEPT_VERSIONS, 10)]


def test_slices_of_a_prediction_know_its_version(client):
    prediction, _ = drive(client._predict(["a", "b"], ()))
    assert (prediction.model_version, prediction[:1].model_version) == ("1", "1")
    assert drive(client._predict([], ()))[0].model_version == ""


def refusing(bad, says_which):
    """A server that refuses requests which hold any of some texts."""

    def answer_or_refuse(request):
        if isinstance(request, Infer) and request.model == "M-text":
            for row, text in zip(request.rows, request.inputs["TEXT"][:, 0], strict=True):
                if text.decode() in bad:
                    error = InvalidInput(f"{text!r} is refused")
                    if says_which or len(request.rows) == 1:
                        error.row = row
                    raise error
        return answer(request)

    return answer_or_refuse


@pytest.mark.parametrize("says_which", [True, False], ids=["row named", "row not named"])
@pytest.mark.parametrize(
    "bad", [{2}, {0}, {9}, {0, 9}, {4, 5, 6}, set(range(10)), set()], ids=lambda bad: f"bad {sorted(bad)}"
)
def test_refused_rows_are_found_and_the_others_answered(client, bad, says_which):
    texts = [f"!{i}" if i in bad else "a" * (i % N_TOPICS) for i in range(10)]
    server = refusing({f"!{i}" for i in bad}, says_which)
    rows, _ = drive(client._assign(texts, 100, "return"), server)
    assert {row.row - 100 for row in rows if isinstance(row, InvalidInput)} == bad
    assert [row.topic for i, row in enumerate(rows) if i not in bad] == [
        i % N_TOPICS for i in range(10) if i not in bad
    ]


def test_a_refused_row_ends_a_stream_that_raises(client):
    with pytest.raises(InvalidInput, match="refused"):
        drive(client._assign(["a", "!"], 0, "raise"), refusing({"!"}, True))
    with pytest.raises(InvalidInput, match=r"Item 7 .* None"):
        drive(client._assign(["a", None], 6, "raise"))


def test_the_first_refused_row_ends_a_stream(client):
    texts = ["!" if i in (1, 9) else "a" for i in range(10)]
    with pytest.raises(InvalidInput) as refused:
        drive(client._assign(texts, 0, "raise"), refusing({"!"}, True))
    assert refused.value.row == 1


def test_a_refusal_that_is_about_no_row_ends_a_stream(client):
    def refuse_topics(request):
        if isinstance(request, Infer) and request.model == "M-topics":
            raise InvalidInput("no topics for you")
        return answer(request)

    with pytest.raises(InvalidInput, match="no topics"):
        drive(client._assign(["a"] * 10, 0, "return"), refuse_topics)


def test_a_chunk_may_hold_rows_of_every_kind(client):
    rows = ["a", np.array([2.0, 1.0]), None, np.array([0.0], np.float32), "bb", np.zeros((2, 2)), np.array([1])]
    found, asked = drive(client._assign(rows, 10, "return"))
    assert [getattr(row, "topic", None) for row in found] == [1, 2, None, 0, 2, None, None]
    assert [row.row for row in found if isinstance(row, InvalidInput)] == [12, 15, 16]
    inferences = [request for request in asked if isinstance(request, Infer) and request.model != "M-topics"]
    assert {tuple(request.rows) for request in inferences} == {(10, 14), (11,), (13,)}


def test_a_chunk_asks_one_request_at_a_time(client):
    question = client._assign(["a"] * 10, 0, "return")
    requests = next(question)
    with suppress(StopIteration):
        while True:
            assert len(requests) == 1
            requests = question.send([answer(requests[0])])


@pytest.mark.parametrize("kind", [TopicClient, AsyncTopicClient])
@pytest.mark.parametrize(
    ("inputs", "on_error", "message"),
    [("text", "raise", "single str"), (3, "raise", "single int"), ([], "skip", "on_error='skip': expected 'raise'")],
)
def test_what_cannot_be_streamed_is_refused_at_once(kind, inputs, on_error, message):
    with pytest.raises(InvalidInput, match=message):
        kind().predict_stream(inputs, on_error=on_error)
