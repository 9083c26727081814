"""llama.cpp's side of decode_gguf.py: greedy decoding of several rows in one batch, by the library's C functions."""

import argparse
import ctypes
import os

import llama_cpp
import numpy as np

import turns

TYPES = {"float32": llama_cpp.LLAMA_FTYPE_ALL_F32, "int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}


def convert(source: str, target: str, kind: str) -> None:
    """Writes a model with weights of another type."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = TYPES[kind], True, len(os.sched_getaffinity(0))
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp cannot write {source} as {target} with weights in {kind}")


class Decoder:
    """A model and a context of `rows` sequences."""

    def __init__(self, path: str, rows: int, length: int) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = rows * length, rows, 4096, 512
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(4096, 0, 1)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def clear(self) -> None:
        """Forgets all tokens."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def append(self, tokens: list[tuple[int, int, int, bool]]) -> np.ndarray:
        """Reads (token, position, row, whether its logits are wanted), and returns the wanted most likely next tokens."""
        for i, (token, position, row, wanted) in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0], self.batch.logits[i] = 1, row, wanted
        self.batch.n_tokens = len(tokens)
        if code := llama_cpp.llama_decode(self.context, self.batch):
            raise SystemExit(f"llama_decode failed with code {code}")
        wanted = [i for i, token in enumerate(tokens) if token[3]]
        logits = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), (self.vocab,)) for i in wanted]
        return np.array([np.argmax(row) for row in logits], np.int32)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--model", required=True)
    flags.add_argument(
        "--convert", metavar="FILE", help="write the model with weights of --type to this file, and stop"
    )
    flags.add_argument("--type", choices=TYPES, default="float32")
    for name in ("rows", "prompt", "new"):
        flags.add_argument(f"--{name}", type=int, default=1)
    args = flags.parse_args()
    if args.convert:
        return convert(args.model, args.convert, args.type)
    decoder = Decoder(args.model, args.rows, args.prompt + args.new)
    random = np.random.default_rng(0)

    def step() -> None:
        decoder.clear()
        prompts = random.integers(100, 40_000, (args.rows, args.prompt)).tolist()
        last = args.prompt - 1
        tokens = [(token, i, row, i == last) for row, ids in enumerate(prompts) for i, token in enumerate(ids)]
        chosen = decoder.append(tokens)
        for position in range(args.prompt, args.prompt + args.new - 1):
            chosen = decoder.append([(int(token), position, row, True) for row, token in enumerate(chosen)])

    turns.serve(step, versions={"llama-cpp-python": llama_cpp.__version__})


if __name__ == "__main__":
    main()
