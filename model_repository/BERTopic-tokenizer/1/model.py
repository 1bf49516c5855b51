"""Text to the token ids that the embedder's graph takes."""

import numpy as np
import triton_python_backend_utils as pb_utils
from bertopic_embedder import Tokenizer, decode
from bertopic_engine.serving import Computed, Endpoint, sibling


class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = Tokenizer.load(sibling(args, "tokenizer"))
        self.endpoint = Endpoint(pb_utils, args, check=decode, compute=self.compute)

    def execute(self, requests):
        return self.endpoint.execute(requests)

    def compute(self, texts):
        tokens = self.tokenizer.tokenize(decode(texts))

        # A request's answer is as long as its own longest text.
        def of(rows):
            return tokens.take(np.arange(rows.start, rows.stop))

        return {
            "INPUT_IDS": Computed(lambda rows: of(rows).input_ids),
            "ATTENTION_MASK": Computed(lambda rows: of(rows).attention_mask),
        }
