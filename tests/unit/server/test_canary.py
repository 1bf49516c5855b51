"""A canary fits what a model takes."""

from __future__ import annotations

from typing import Any

import pytest
from bertopic_engine.serving import CANARY
from bertopic_server._canary import request_of


def given(name: str, datatype: str, dims: list[int], batch: int = 64) -> dict[str, Any]:
    # Triton writes 64-bit integers as strings.
    return {
        "max_batch_size": batch,
        "input": [{"name": name, "data_type": f"TYPE_{datatype}", "dims": [str(dim) for dim in dims]}],
        "output": [{"name": "FIRST"}, {"name": "SECOND"}],
    }


@pytest.mark.parametrize(
    ("config", "datatype", "shape", "data"),
    [
        (given("TEXT", "STRING", [1]), "BYTES", [1, 1], ["canary"]),
        (given("IN", "FP32", [4]), "FP32", [1, 4], [0.5] * 4),
        (given("INPUT_IDS", "INT64", [-1]), "INT64", [1, 1], [0]),
        (given("ATTENTION_MASK", "INT64", [-1]), "INT64", [1, 1], [1]),
        (given("TOPIC", "INT32", [-1], batch=0), "INT32", [1], [0]),
    ],
    ids=["text", "embedding", "tokens", "mask", "topic"],
)
def test_one_row_of_what_the_model_takes(config: Any, datatype: str, shape: list[int], data: list[Any]) -> None:
    request = request_of(config)
    assert request["id"] == CANARY
    assert request["outputs"] == [{"name": "FIRST"}]
    (tensor,) = request["inputs"]
    assert tensor == {"name": config["input"][0]["name"], "datatype": datatype, "shape": shape, "data": data}
