"""A sentence-transformers model becomes an ONNX graph and a tokenizer, checked against the original."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._encoder import GRAPH, Embedder
from ._exceptions import UnreadableEmbedder, UnsupportedEmbedder, VerificationError
from ._splits import length_buckets
from ._tokenizer import SETTINGS, TOKENIZER
from ._verify import TEXTS, cosines, is_batch_invariant, largest_difference

Device = Literal["cpu", "gpu"]
Precision = Literal["fp32", "fp16", "int8"]
Padding = Literal["removed", "masked"]

_OPSET = 17


@dataclass(frozen=True)
class EmbedderReport:
    """What was exported, and how it compares with the original."""

    dimension: int
    """of an embedding"""
    max_length: int
    """tokens, beyond which a text is cut"""
    pooling: str
    padding: Padding
    """inside the graph"""
    precision: Precision
    batch_invariant: bool | None
    """a text's embedding does not depend on its batch, to the bit; None for a GPU, where nothing is known of it"""
    largest_difference: float
    """to sentence-transformers, of any component in fp32"""
    mean_cosine: float
    """of the exported precision to sentence-transformers"""
    smallest_cosine: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def export(model: Any, folder: Path, *, precision: Precision = "fp32", device: Device = "cpu") -> EmbedderReport:
    """Export a sentence-transformers model.

    Parameters
    ----------
    model : SentenceTransformer, str or Path
        Transformer + Pooling (mean, cls, max), then Dense and Normalize if wanted.
    folder : Path
        Gets `model.onnx`, `tokenizer.json` and `embedder.json`; created if missing.
    precision : "fp32", "fp16" or "int8"
        Of the weights and the arithmetic; int8 is for the CPU.
    device : "cpu" or "gpu"
        That the graph will run on; no GPU is needed to export for one.

    Returns
    -------
    EmbedderReport

    Raises
    ------
    UnsupportedEmbedder
        The model has a module or option that cannot be exported; or there is no such precision on the device.
    VerificationError
        The graph's embeddings differ from the model's by more than 1e-4, or from those in fp32 by too much.
    UnreadableEmbedder
        No model could be loaded.
    """
    from ._modules import default_prompt, take_apart

    require_precision(precision, device)
    model = load_sentence_transformer(model)
    transformer, pooling, head = take_apart(model)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, pad_id = _tokenizer(model)
    (folder / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    max_length: int = tokenizer.truncation["max_length"]
    settings = {"pad_id": pad_id, "prompt": default_prompt(model)}
    if device == "gpu":
        settings["buckets"] = length_buckets(max_length)
    expected = model.encode(list(TEXTS), convert_to_numpy=True, show_progress_bar=False).astype(np.float32)
    padding, difference = _export_graph(transformer, pooling, head, folder, settings, expected, device)
    rounded = _lower_precision(folder, precision, expected)
    if device == "gpu":
        _name_by_content(folder / GRAPH)
    embedder = Embedder.load(folder)
    similarity = cosines(embedder.encode(list(TEXTS)), expected) if rounded is None else rounded
    return EmbedderReport(
        dimension=expected.shape[1],
        max_length=max_length,
        pooling=pooling,
        padding=padding,
        precision=precision,
        batch_invariant=is_batch_invariant(embedder) if device == "cpu" else None,
        largest_difference=difference,
        mean_cosine=float(similarity.mean()),
        smallest_cosine=float(similarity.min()),
    )


def require_precision(precision: str, device: str) -> None:
    """Raises UnsupportedEmbedder if `export` cannot write a graph of this precision for this device."""
    expected = {"cpu": ("fp32", "fp16", "int8"), "gpu": ("fp32", "fp16")}
    if device not in expected:
        raise UnsupportedEmbedder(f"device is {device!r}, expected 'cpu' or 'gpu'.")
    if precision not in expected[device]:
        raise UnsupportedEmbedder(
            f"precision is {precision!r}, expected one of {', '.join(expected[device])} for device {device!r}."
        )


def load_sentence_transformer(model: Any) -> Any:
    """A SentenceTransformer on the CPU in single precision.

    Parameters
    ----------
    model : SentenceTransformer, or its folder or name
        An object is copied, since the caller's may be on a GPU or in half precision and should stay so.

    Raises
    ------
    UnreadableEmbedder
        No model could be loaded.
    """
    from sentence_transformers import SentenceTransformer

    if isinstance(model, SentenceTransformer):
        return copy.deepcopy(model).cpu().float().eval()
    try:
        return SentenceTransformer(str(model), device="cpu").float().eval()
    except Exception as error:  # from a dozen libraries
        raise UnreadableEmbedder(
            f"no sentence-transformers model could be loaded from {str(model)!r} ({type(error).__name__}: {error}). "
            "Give the folder of one, or a name that can be downloaded."
        ) from error


def _tokenizer(model: Any) -> tuple[Any, int]:
    """The model's own tokenizer: truncates at its limit, does not pad."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    if not model.max_seq_length:
        raise UnsupportedEmbedder("the embedder has no max_seq_length. Set it to the length it was trained with.")
    backend.enable_truncation(int(model.max_seq_length), direction=model.tokenizer.truncation_side)
    return backend, int(model.tokenizer.pad_token_id or 0)


def _export_graph(
    transformer: Any,
    pooling: str,
    head: Any,
    folder: Path,
    settings: dict[str, Any],
    expected: Any,
    device: Device,
) -> tuple[Padding, float]:
    """Write the graph that suits the device if the architecture allows it, else the one that transformers gives."""
    from ._modules import PaddedModel

    padding: Padding = "removed" if device == "cpu" else "masked"
    try:
        _write(_adapted(transformer, pooling, head, device), folder, settings | {"padding": padding})
        return padding, largest_difference(Embedder.load(folder), expected)
    except Exception:  # whatever keeps an architecture from being adapted, the other graph does not need
        _write(PaddedModel(transformer, pooling, head), folder, settings | {"padding": "masked"})
        return "masked", largest_difference(Embedder.load(folder), expected)


def _lower_precision(folder: Path, precision: Precision, expected: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Rewrite the graph in `folder`; returns cosines to the expected embeddings if a CPU would not show them."""
    if precision == "fp16":
        from ._half import halve

        return halve(folder, expected)
    if precision == "int8":
        from ._int8 import quantize

        quantize(folder)
    return None


def _write(module: Any, folder: Path, settings: dict[str, Any]) -> None:
    trace(module, folder / GRAPH)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _adapted(transformer: Any, pooling: str, head: Any, device: Device) -> Any:
    from transformers import AttentionInterface

    from ._modules import MASKED, PACKED, MaskedModel, PackedModel, masked_attention, packed_attention

    model, name, attention = (
        (PackedModel, PACKED, packed_attention) if device == "cpu" else (MaskedModel, MASKED, masked_attention)
    )
    AttentionInterface.register(name, attention)
    transformer = copy.deepcopy(transformer)
    transformer.set_attn_implementation(name)
    if transformer.config._attn_implementation != name:
        raise VerificationError("the architecture does not use transformers' attention interface.")
    return model(transformer, pooling, head)


def _name_by_content(path: Path) -> None:
    """Name a graph by its weights: of two with one name and one structure, ONNX Runtime takes the same engine."""
    import onnx

    model = onnx.load(path)
    model.graph.name = f"bertopic_{sha256(path.read_bytes()).hexdigest()[:16]}"
    path.write_bytes(model.SerializeToString(deterministic=True))


def trace(module: Any, path: Path) -> None:
    """Write a module of `_modules` as an ONNX graph."""
    import onnx
    import torch

    from ._graph import simplify_shapes

    ids = torch.tensor([[5, 6, 7, 8, 0, 0], [5, 6, 7, 0, 0, 0]])
    mask = (ids > 0).long()
    batch_and_length = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (ids, mask),
            str(path),
            input_names=["INPUT_IDS", "ATTENTION_MASK"],
            output_names=["EMBEDDING"],
            dynamic_axes={
                "INPUT_IDS": batch_and_length,
                "ATTENTION_MASK": batch_and_length,
                "EMBEDDING": {0: "batch"},
            },
            opset_version=_OPSET,
            dynamo=False,
        )
    onnx.save(simplify_shapes(onnx.load(path)), path)
