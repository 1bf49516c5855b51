"""Token ids to sentence embeddings, by ONNX Runtime."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ._exceptions import InvalidTokens, UnavailableDevice, UnreadableEmbedder
from ._tokenizer import Call, Plan, Tokenizer

GRAPH = "model.onnx"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxEncoder:
    """Runs an exported graph.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        From INPUT_IDS and ATTENTION_MASK to EMBEDDING.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def encode(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of tokenised texts.

        Parameters
        ----------
        input_ids, attention_mask : int64 [n, length]
            From `Tokenizer.tokenize`.

        Returns
        -------
        float32 [n, dim]

        Raises
        ------
        InvalidTokens
            Rows without tokens, ids that the network has no embedding for, or a mask of another shape.
        """
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

        _check(input_ids, attention_mask)
        feed = {"INPUT_IDS": input_ids, "ATTENTION_MASK": attention_mask}
        try:
            embeddings: NDArray[np.float32] = self._session.run(["EMBEDDING"], feed)[0]
        except InvalidArgument as error:
            raise InvalidTokens(
                f"INPUT_IDS of shape {input_ids.shape} cannot be encoded: {error}. "
                "Take them from the tokenizer that belongs to this network."
            ) from error
        return embeddings

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1, gpu: int | None = None) -> OnnxEncoder:
        """Load the graph of `folder`.

        Parameters
        ----------
        folder : Path
            As `export` writes it.
        threads : int
            To run with, on the CPU.
        gpu : int, optional
            The CUDA device to run on, rather than the CPU.

        Raises
        ------
        UnreadableEmbedder
            The graph is missing or damaged.
        UnavailableDevice
            ONNX Runtime cannot use the GPU.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the cores from whoever makes or uses the embeddings.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = folder / GRAPH
        providers = [_CPU] if gpu is None else _cuda_providers(gpu)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            cause = "missing or damaged" if gpu is None else f"missing, damaged, or too large for CUDA device {gpu}"
            raise UnreadableEmbedder(f"{path} is {cause} ({error}). Convert the model again.") from error
        # Where CUDA does not start, ONNX Runtime takes the CPU with no more than a warning.
        if gpu is not None and _CUDA not in (started := session.get_providers()):
            raise UnavailableDevice(
                f"CUDA device {gpu} was asked for, and ONNX Runtime started {', '.join(started)} only; its warning "
                f"says why. onnxruntime-gpu {onnxruntime.__version__} needs NVIDIA's driver, CUDA and cuDNN."
            )
        # A call that fails would be repeated on the CPU, and so would all after it.
        session.disable_fallback()
        return cls(session)


def _cuda_providers(gpu: int) -> list[Any]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if _CUDA not in available:
        raise UnavailableDevice(
            f"CUDA device {gpu} was asked for, and this ONNX Runtime has {', '.join(available)} only. Install "
            "onnxruntime-gpu in the place of onnxruntime, or convert the model with --device cpu."
        )
    # CUDA and cuDNN may have come with pip, where the system does not look for libraries.
    onnxruntime.preload_dlls()
    # What is to be less precise than fp32 has been made so by `export`.
    return [(_CUDA, {"device_id": gpu, "use_tf32": 0}), _CPU]


def _check(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> None:
    """Refuse what the graph would take for something else: it counts negative ids from the vocabulary's end."""
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
        raise InvalidTokens(
            f"INPUT_IDS have the shape {input_ids.shape} and ATTENTION_MASK {attention_mask.shape}, expected the same "
            "(n, length) of both."
        )
    if (input_ids < 0).any() or (attention_mask & ~1).any():
        raise InvalidTokens("INPUT_IDS hold negative numbers, or ATTENTION_MASK others than 0 and 1.")
    if not (has_tokens := attention_mask.any(axis=1)).all():
        raise InvalidTokens(f"row {int(has_tokens.argmin())} of ATTENTION_MASK is all 0, expected at least one token.")


class Encoder(Protocol):
    """From token ids and their mask, int64 [n, length], to embeddings, float32 [n, dim]."""

    def encode(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]: ...


class Embedder:
    """Texts to embeddings.

    Parameters
    ----------
    tokenizer : Tokenizer
    encoder : Encoder
    side_by_side : int
        Calls of the encoder to make at the same time.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, *, side_by_side: int = 1) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.side_by_side = side_by_side
        self._threads = ThreadPoolExecutor(side_by_side, thread_name_prefix="bertopic-embedder")

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Embeddings of texts, of which there is at least one; a text's embedding does not depend on the others.

        Returns
        -------
        float32 [n, dim]
        """
        return self.run(self.plan(texts))

    def plan(self, texts: list[str]) -> Plan:
        """How to encode `texts`, of which there is at least one."""
        return self.tokenizer.plan(texts, side_by_side=self.side_by_side)

    def run(self, plan: Plan) -> NDArray[np.float32]:
        """Embeddings of a plan's texts, float32 [n, dim]."""
        if len(plan.calls) == 1:
            embeddings = [self._call(plan.calls[0])]
        else:
            embeddings = list(self._threads.map(self._call, plan.calls))
        return plan.in_order(embeddings)

    def _call(self, call: Call) -> NDArray[np.float32]:
        return self.encoder.encode(*call.tokens)

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1, gpu: int | None = None) -> Embedder:
        """Read what `export` wrote; parameters and errors are those of `OnnxEncoder.load`."""
        return cls(Tokenizer.load(folder), OnnxEncoder.load(folder, threads=threads, gpu=gpu))
