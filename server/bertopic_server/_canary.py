"""The smallest request that a model can answer, and what its outcome says about the model."""

from __future__ import annotations

import json
import math
import time
import urllib.error
from dataclasses import dataclass
from enum import Enum
from http.client import HTTPException
from typing import Any

from bertopic_engine.serving import CANARY

from ._loopback import open_url

# How requests are turned away that there is no room or no time for: by Triton, and by the models.
_BUSY = ("Exceeds maximum queue size", "Request timeout expired", "has more to do than it can answer soon")


class Outcome(Enum):
    """What became of a canary."""

    answered = "answered"
    busy = "busy"
    """turned away, for there is too much to do"""
    refused = "refused"
    """the model, or Triton for it, answered with an error"""
    silent = "silent"
    """no answer in time"""
    unreachable = "unreachable"
    """no tritonserver there"""


@dataclass(frozen=True)
class Sung:
    """One canary."""

    outcome: Outcome
    seconds: float
    message: str = ""


def sing(url: str, model: str, config: dict[str, Any], timeout: float) -> Sung:
    """Send a canary.

    Parameters
    ----------
    url : str
        Of Triton's HTTP port.
    model : str
        The Triton model, with a version if not the newest is meant: "NAME-text" or "NAME-text/versions/2".
    config : dict
        The model's config as Triton gives it out.
    timeout : float
        Seconds.
    """
    begun = time.monotonic()
    try:
        body = json.dumps(request_of(config)).encode()
        with open_url(f"{url}/v2/models/{model}/infer", body, timeout=timeout) as response:
            response.read()
        outcome, message = Outcome.answered, ""
    except urllib.error.HTTPError as error:
        message = error.read().decode(errors="replace")
        outcome = Outcome.busy if any(reason in message for reason in _BUSY) else Outcome.refused
    except (TimeoutError, ConnectionResetError, HTTPException):
        outcome, message = Outcome.silent, f"no answer in {timeout:.0f} s"
    except OSError as error:
        outcome, message = Outcome.unreachable, str(error)
    return Sung(outcome, time.monotonic() - begun, message)


def request_of(config: dict[str, Any]) -> dict[str, Any]:
    """One row of what the model takes, asking for its first output."""
    batched = int(config.get("max_batch_size", 0)) > 0
    return {
        "id": CANARY,
        "inputs": [_tensor(given, batched) for given in config["input"]],
        "outputs": [{"name": config["output"][0]["name"]}],
    }


def _tensor(given: dict[str, Any], batched: bool) -> dict[str, Any]:
    dims = [max(1, int(dim)) for dim in given["dims"]]
    size = math.prod(dims)
    datatype = given["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    value: str | float
    if datatype == "BYTES":
        value = "canary"
    elif datatype == "FP32":
        # Of length 1, since a cosine knows no zero vector.
        value = 1 / math.sqrt(size)
    else:
        value = int(given["name"] == "ATTENTION_MASK")
    return {
        "name": given["name"],
        "shape": [1, *dims] if batched else dims,
        "datatype": datatype,
        "data": [value] * size,
    }
