"""Writes tests/hf/fixtures: tiny random Hugging Face models and the outputs of `transformers`.

Run by hand when a family is added; the tests only read the files. It needs two environments besides the project's:

    python3 -m venv v4 && v4/bin/pip install torch==2.13.0 'transformers==4.57.6' safetensors
    python3 -m venv v5 && v5/bin/pip install torch==2.13.0 'transformers==5.23.0' safetensors
    v4/bin/python tests/hf/make_fixtures.py [names...]  # every fixture except <name>_v5
    v5/bin/python tests/hf/make_fixtures.py [names...]  # <name>_v5

A fixture is `config.json`, `model.safetensors` (or shards and their index) and `expected.npz`:

- decoders: tokens, mask [3, 12] (padded on the right), logits [3, 12, V] of one batched call, greedy [3, 8] (each
  row by itself, from its unpadded prompt), and row_logits [3, 12, V] if single rows give other logits than the batch;
- encoders: tokens, mask, token_types [3, 12] and those of logits, hidden, pooled, nsp that the model has;
  XLNet also perm_order and perm_logits [3, 12, V]: the query stream of i sees j where perm_order[j] < perm_order[i];
- encoder-decoders: tokens, mask [3, 12], decoder_tokens [3, 9], logits [3, 9, V], greedy [3, 8].
"""

import copy
import functools
import inspect
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from fixture_models import DTYPES, MODELS, MODELS_V5, SHARD_SIZES, UNTIED

FOLDER = Path(__file__).parent / "fixtures"
LENGTHS = (12, 7, 3)
LENGTH, DECODER_LENGTH, NEW_TOKENS = 12, 9, 8
FIRST_TOKEN = 6  # smaller ids are special ids of some family
MIN_GAP = 1e-3  # between the two best logits of a greedy step
MIN_DISTINCT = 6  # different ids in the three greedy continuations
MAX_BYTES = 200_000
V5 = int(transformers.__version__.split(".")[0]) >= 5


class Unclear(Exception):
    """With this seed, greedy ids are nearly tied or repetitive, or an expert is not used."""


def build(name, seed):
    """Returns a model whose tensors are all drawn from the seed."""
    class_name, config = MODELS[name.removesuffix("_v5")]
    cls = getattr(transformers, class_name)
    model = cls(cls.config_class(**config, attn_implementation=attention(name))).eval()
    model.tie_weights()
    if name in UNTIED:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    redraw(model, np.random.default_rng(seed))
    for value in model.parameters():  # rounded as they are stored; the rotary frequencies stay float32
        value.data = value.data.to(dtype(name)).float()
    return model


def attention(name):
    """Returns eager attention, except for Falcon's ALiBi, which eager attention adds twice (to scores and mask)."""
    return "sdpa" if name == "falcon_rw" else "eager"


def dtype(name):
    """Returns the dtype of the stored tensors."""
    return getattr(torch, DTYPES.get(name, "float32"))


def redraw(model, rng):
    """Redraws every parameter and BART's logit bias, so that a swapped or dropped tensor changes the outputs."""
    norms = {f"{name}.weight" for name, module in model.named_modules() if "Norm" in type(module).__name__}
    for name, value in model.named_parameters():
        value.data.copy_(torch.from_numpy(draw(name, value.data, name in norms, rng)))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.copy_(torch.from_numpy(rng.normal(0, 0.5, model.final_logits_bias.shape)))


# Standard deviations of parameters other than norm scales, by the first matching pattern. Queries and keys, which must
# distinguish positions, and a tied T5's table, whose logits are divided by sqrt(d_model), have larger ones; sublayer outputs
# of OPT and BART, which are added to the residual stream, have smaller ones.
SPREADS = (
    (r"relative_attention_bias", 0.7),
    (r"^shared\.weight", 0.8),
    (r"\.(q_proj|k_proj)\.weight", 0.4),
    (r"\.(out_proj|fc2)\.weight", 0.15),
    (r"bias$", 0.2),
    (r"", 0.25),
)


def draw(name, value, is_norm, rng):
    """Draws one parameter: norm scales around their initial 0 or 1, all others around 0."""
    if is_norm:
        return rng.normal(value.mean().item(), 0.2, value.shape)
    return rng.normal(0, next(spread for pattern, spread in SPREADS if re.search(pattern, name)), value.shape)


def run(model, **inputs):
    """Runs a forward pass on a copy, because a longer call changes dynamic rotary frequencies."""
    with torch.no_grad():
        arrays = {key: torch.from_numpy(value) for key, value in inputs.items()}
        return copy.deepcopy(model)(**arrays)


def padded_tokens(model, rng):
    """Returns three rows of random ids, padded on the right, and their mask."""
    decoder = kind(model) == "decoder"
    pad = 0 if decoder or model.config.pad_token_id is None else model.config.pad_token_id
    mask = np.array([[int(i < n) for i in range(LENGTH)] for n in LENGTHS])
    return np.where(mask, rng.integers(FIRST_TOKEN, model.config.vocab_size, mask.shape), pad), mask


def kind(model):
    """Returns which of the three sets of outputs the model has."""
    if model.config.is_encoder_decoder:
        return "encoder_decoder"
    return "decoder" if type(model).__name__.endswith(("ForCausalLM", "GPT2LMHeadModel")) else "encoder"


def decoder_logits(model, tokens, mask):
    """Returns logits of right-padded rows; OPT computes positions from the mask, and BLOOM has none."""
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters and model.config.model_type != "opt":
        inputs["position_ids"] = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).copy()
    return run(model, **inputs).logits.numpy()


def greedy(prompt, next_logits):
    """Continues one row by argmax; raises Unclear at near ties."""
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        logits = next_logits(np.array([ids]))
        second, first = np.sort(logits)[-2:]
        if first - second < MIN_GAP:
            raise Unclear
        ids.append(int(logits.argmax()))
    return ids[-NEW_TOKENS:]


def check_variety(rows):
    """Returns the greedy continuations; raises Unclear if they have few distinct ids."""
    if len(np.unique(rows)) < MIN_DISTINCT:
        raise Unclear
    return np.array(rows)


def expected_decoder(model, rng):
    """Returns batched logits and greedy continuations of a decoder-only model."""
    tokens, mask = padded_tokens(model, rng)

    def row_logits(ids):
        return decoder_logits(model, ids, np.ones_like(ids))[0]

    logits = decoder_logits(model, tokens, mask)
    rows = np.zeros_like(logits)
    for i, n in enumerate(LENGTHS):
        rows[i, :n] = row_logits(tokens[i : i + 1, :n])
    continuations = [greedy(row[:n], lambda ids: row_logits(ids)[-1]) for row, n in zip(tokens, LENGTHS, strict=True)]
    values = {"tokens": tokens, "mask": mask, "logits": logits, "greedy": check_variety(continuations)}
    if np.abs(logits - rows)[mask > 0].max() > 1e-4:
        values["row_logits"] = rows
    return values


def expected_encoder_decoder(model, rng):
    """Returns teacher-forced logits and greedy outputs of an encoder-decoder."""
    tokens, mask = padded_tokens(model, rng)
    start = model.config.decoder_start_token_id
    targets = rng.integers(FIRST_TOKEN, model.config.vocab_size, (3, DECODER_LENGTH))
    targets[:, 0] = start

    def last(ids, source):
        inputs = {"input_ids": source, "attention_mask": np.ones_like(source), "decoder_input_ids": ids}
        return run(model, **inputs).logits.numpy()[0, -1]

    logits = run(model, input_ids=tokens, attention_mask=mask, decoder_input_ids=targets).logits.numpy()
    sources = [row[None, :n] for row, n in zip(tokens, LENGTHS, strict=True)]
    continuations = [greedy([start], functools.partial(last, source=source)) for source in sources]
    return {
        "tokens": tokens,
        "mask": mask,
        "decoder_tokens": targets,
        "logits": logits,
        "greedy": check_variety(continuations),
    }


def expected_encoder(model, rng):
    """Returns every output of an encoder."""
    tokens, mask = padded_tokens(model, rng)
    types = getattr(model.config, "type_vocab_size", 2)
    inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": rng.integers(0, types, tokens.shape)}
    out = run(model, **inputs)
    values = {"tokens": tokens, "mask": mask, "token_types": inputs["token_type_ids"]}
    names = {
        "logits": ("logits", "prediction_logits"), "hidden": ("last_hidden_state",), "pooled": ("pooler_output",),
        "nsp": ("seq_relationship_logits", "sop_logits"),
    }  # fmt: skip
    values |= {key: out[name].numpy() for key, options in names.items() for name in options if name in out}
    if model.config.model_type == "xlnet":
        values |= permute(model, inputs, rng)
    return values


def permute(model, inputs, rng):
    """Returns XLNet's query stream over all positions, in a random order for every row."""
    rank = np.stack([rng.permutation(LENGTH) for _ in LENGTHS])
    perm_mask = (rank[:, None, :] >= rank[:, :, None]).astype(np.float32)
    targets = np.broadcast_to(np.eye(LENGTH, dtype=np.float32), (3, LENGTH, LENGTH)).copy()
    return {
        "perm_order": rank,
        "perm_logits": run(model, **inputs, perm_mask=perm_mask, target_mapping=targets).logits.numpy(),
    }


def expected(model, seed):
    """Returns the arrays that the tests compare with: ids as int32, values as float32."""
    make = {"decoder": expected_decoder, "encoder": expected_encoder, "encoder_decoder": expected_encoder_decoder}
    values = make[kind(model)](model, np.random.default_rng(seed + 1))
    return {k: v.astype(np.int32 if v.dtype.kind == "i" else np.float32) for k, v in values.items()}


def reload(folder, cls):
    """Loads the saved model in float32; every tensor must be used."""
    model, report = cls.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention(folder.name), output_loading_info=True
    )
    problems = {key: value for key, value in report.items() if value}
    if problems:
        raise ValueError(f"{folder}: {problems}")
    return model.eval()


def unused(model, values):
    """Returns tensors and experts without effect on real positions, except key biases (which cancel) and XLNet's mask vector."""
    names = {
        "tokens": "input_ids", "mask": "attention_mask", "token_types": "token_type_ids",
        "decoder_tokens": "decoder_input_ids",
    }  # fmt: skip
    model = copy.deepcopy(model)
    out = model(**{names[key]: torch.from_numpy(values[key]).long() for key in names if key in values})
    mask = torch.from_numpy(values["mask"]) > 0
    outputs = [x for x in out.values() if torch.is_tensor(x) and x.ndim > 1]
    sum((x[mask] if x.shape[:2] == mask.shape else x).square().sum() for x in outputs).backward()
    skipped = re.compile(r"(k_proj|key)\.bias|mask_emb")
    return [n for n, p in model.named_parameters() if not skipped.search(n) and least_gradient(n, p.grad) < 1e-4]


def least_gradient(name, grad):
    """Returns the largest gradient in a tensor, or in the least used expert of stacked experts."""
    if grad is None:
        return 0.0
    parts = grad if "experts" in name and grad.ndim > 2 else grad[None]
    return parts.flatten(1).abs().amax(1).min().item()


def check(name, values, again):
    """Checks that reloading gives the same arrays and that outputs differ between positions."""
    for key in values:
        np.testing.assert_allclose(values[key], again[key], atol=1e-5, err_msg=f"{name}: {key}")
        if not np.isfinite(values[key]).all():
            raise ValueError(f"{name}: {key} is not finite")
    for key in {"logits", "hidden"} & values.keys():
        if values[key].std(1).mean() < 0.1:
            raise ValueError(f"{name}: {key} hardly differ between positions")


def write(name, seed):
    """Writes one fixture; replaces the folder only if all checks pass."""
    model = build(name, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        copy.deepcopy(model).to(dtype(name)).save_pretrained(
            folder, safe_serialization=True, max_shard_size=SHARD_SIZES.get(name, "1GB")
        )
        (folder / "generation_config.json").unlink(missing_ok=True)
        values = expected(model, seed)
        if unused(model, values):
            raise Unclear
        check(name, values, expected(reload(folder, type(model)), seed))
        np.savez_compressed(folder / "expected.npz", **values)
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > MAX_BYTES:
            raise ValueError(f"{name}: {size} bytes, more than {MAX_BYTES}")
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        shutil.copytree(folder, FOLDER / name)
    return size, values


def make(name):
    """Writes a fixture with the first seed that is not Unclear."""
    first = zlib.crc32(name.encode())
    for seed in range(first, first + 400):
        try:
            size, values = write(name, seed)
        except Unclear:
            continue
        print(f"{name:24} {size / 1000:6.1f} KB  seed +{seed - first:<3} {' '.join(values)}", flush=True)
        return
    raise ValueError(f"{name}: every seed is unclear")


def main(names):
    """Writes the named fixtures, or all that this version of transformers makes."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    known = [f"{name}_v5" for name in MODELS_V5] if V5 else list(MODELS)
    if unknown := set(names) - set(known):
        sys.exit(f"transformers {transformers.__version__} does not make {sorted(unknown)}; it makes {known}")
    for name in names or known:
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
