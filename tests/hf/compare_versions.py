"""Prints how far our logits are from those of two versions of transformers, for every family, in both directions.

Run by hand; it needs the two environments of make_fixtures.py besides the project's:

    python -m tests.hf.compare_versions v4/bin/python v5/bin/python [names...]

Each version draws and saves every model, and saves the other's again (columns "4", "5", "4 as 5" and "5 as 4": import).
Exports of what 4 and 5 saved are read by both versions (columns "to 4" and "to 5"). Numbers are the largest difference, in
units of the largest logit. "-" is a model that the other version cannot load itself.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
LIMIT = 1e-4


def extra_models(models):
    """Returns further variants of the fixtures' models: other heads, other members of a family."""

    def change(name, **fields):
        kind, config = models[name]
        return kind, config | fields

    gated = {"feed_forward_proj": "gated-gelu"}
    return {
        "mt5_tied": change("mt5", tie_word_embeddings=True),
        "umt5_tied": change("umt5", tie_word_embeddings=True),
        "t5_gated_tied": change("t5", **gated),
        "t5_relu_untied": change("t5", tie_word_embeddings=False),
        "switch_untied": change("switch", tie_word_embeddings=False),
        "llama_tied": change("llama", tie_word_embeddings=True),
        "qwen2_tied": change("qwen2", tie_word_embeddings=True),
        "gpt2_untied": change("gpt2", tie_word_embeddings=False),
        "gpt_neox_tied": change("gpt_neox", tie_word_embeddings=True),
        "gemma2_untied": change("gemma2", tie_word_embeddings=False),
        "opt_untied": change("opt", tie_word_embeddings=False),
        "falcon_untied": change("falcon_7b", tie_word_embeddings=False),
        "bloom_untied": change("bloom", tie_word_embeddings=False),
        "xlm_roberta": ("XLMRobertaForMaskedLM", models["roberta"][1]),
        "bert_classes": ("BertForSequenceClassification", models["bert"][1] | {"num_labels": 5}),
        "phi3_partial": change("phi3", partial_rotary_factor=0.5, hidden_size=32),
        "qwen3_window": change("qwen3", use_sliding_window=True, max_window_layers=1, sliding_window=4),
    }


# In transformers' environments.


def read_names(names):
    """Returns the names and the module make_fixtures, which then knows the further models."""
    sys.path.insert(0, str(FOLDER))
    import make_fixtures

    make_fixtures.MODELS.update(extra_models(make_fixtures.MODELS))
    make_fixtures.transformers.logging.set_verbosity_error()
    make_fixtures.transformers.logging.disable_progress_bar()
    return names or list(make_fixtures.MODELS), make_fixtures


def save_with_logits(model, name, folder, make_fixtures):
    """Saves a model and its outputs for random ids."""
    import torch

    rng = np.random.default_rng(7)
    inputs = {"input_ids": rng.integers(6, 61, (2, 9))}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = rng.integers(6, 61, (2, 6))
    out = make_fixtures.run(model, **inputs)
    outputs = ("logits", "prediction_logits", "last_hidden_state")
    logits = next(out[name] for name in outputs if name in out).numpy()
    if folder is not None:
        model.to(getattr(torch, make_fixtures.DTYPES.get(name, "float32"))).save_pretrained(folder / name)
        np.savez(folder / f"{name}.npz", logits=logits, **inputs)
    return logits


def make(folder, *names):
    """Draws and saves models."""
    names, make_fixtures = read_names(names)
    for name in names:
        save_with_logits(make_fixtures.build(name, 3), name, Path(folder), make_fixtures)


def save_again(source, folder, *names):
    """Loads models and saves them with the outputs of this version; writes the logits alone if `folder` is "logits"."""
    import torch

    names, make_fixtures = read_names(names)
    source = Path(source)
    for name in names:
        if not (source / name).exists():
            continue
        config = json.loads((source / name / "config.json").read_text())
        cls = getattr(make_fixtures.transformers, config["architectures"][0])
        attention = make_fixtures.attention(name)
        try:
            model, report = cls.from_pretrained(
                source / name, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
            )
        except (AttributeError, ValueError, TypeError, KeyError, RuntimeError) as error:
            print(f"{source.name}/{name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        if problems := {key: value for key, value in report.items() if value}:
            print(f"{source.name}/{name}: {problems}")
        if folder == "logits":
            logits = save_with_logits(model.eval(), name, None, make_fixtures)
            np.save(source / f"{name}.{make_fixtures.transformers.__version__[0]}.npy", logits)
        else:
            save_with_logits(model.eval(), name, Path(folder), make_fixtures)


# In the project's environment.


def our_logits(model, params, reference):
    """Returns the outputs of an imported model for the inputs of a reference."""
    from tests.hf import folders

    tokens = reference["input_ids"]
    first = "encoder" if hasattr(model, "encoder") else "decoder"
    batch = folders.side(first, tokens, np.ones_like(tokens))
    if "decoder_input_ids" in reference:
        decoder = reference["decoder_input_ids"]
        batch |= folders.side("decoder", decoder, np.ones_like(decoder))
    classes = getattr(model, "classifier", None) is not None and reference["logits"].ndim == 2
    method = "classify" if classes else "__call__"
    got = np.asarray(model.apply({"params": params}, batch, method=method))
    return got[..., 0] if got.ndim == reference["logits"].ndim + 1 else got


def difference(one, two):
    """Returns the largest difference, in units of the largest number."""
    return float(np.abs(one - two).max() / np.abs(two).max())


def import_and_export(source, exported, name, problems):
    """Returns the difference of an import; exports the model to `exported` unless that is None."""
    from t5x_like import hf

    if not (source / name).exists():
        return None
    reference = np.load(source / f"{name}.npz")
    try:
        model, params = hf.load(source / name, dtype=np.float32)
        ours = our_logits(model, params, reference)
        if exported is not None:
            config = json.loads((source / name / "config.json").read_text())
            np.save(exported / f"{name}.npy", ours)
            hf.save(model, params, exported / name, config["model_type"], config)
    except ValueError as error:
        problems.append(f"{source.name}/{name}: {error}")
        return float("inf")
    return difference(ours, reference["logits"])


def export_difference(exported, name, version):
    """Returns the difference of what a version computes with an export, or None if it was not made."""
    path = exported / f"{name}.{version}.npy"
    if not (exported / name).exists():
        return None
    return difference(np.load(path), np.load(exported / f"{name}.npy")) if path.exists() else float("inf")


def main(python_4, python_5, *names):
    """Prints the table; returns whether every number is below the limit."""
    work, problems, pythons = Path(tempfile.mkdtemp()), [], {"4": python_4, "5": python_5}

    def call(version, *arguments):
        print(subprocess.run([pythons[version], __file__, *map(str, arguments), *names], check=True, text=True,
                             stdout=subprocess.PIPE).stdout, end="")  # fmt: skip

    for version in "45":
        call(version, "make", work / version)
    for version, other in ("45", "54"):
        call(other, "save_again", work / version, work / f"{version} as {other}")
    folders = {column: work / column for column in ("4", "5", "4 as 5", "5 as 4")}
    exports = {version: work / f"export of {version}" for version in "45"}
    for folder in exports.values():
        folder.mkdir()
    every = sorted(path.stem for path in folders["5"].glob("*.npz"))
    imports = {name: [import_and_export(path, exports.get(column), name, problems) for column, path in folders.items()]
               for name in every}  # fmt: skip
    for version in "45":
        for folder in exports.values():
            call(version, "save_again", folder, "logits")
    columns = [*folders, *(f"{made} to {version}" for made in "45" for version in "45")]
    print(f"{'':20}" + "".join(f"{column:>9}" for column in columns))
    worst = 0.0
    for name, row in imports.items():
        row += [export_difference(exports[made], name, version) for made in "45" for version in "45"]
        worst = max([worst, *(x for x in row if x is not None)])
        print(f"{name:20}" + "".join(f"{'-' if x is None else f'{x:.0e}':>9}" for x in row))
    print(*problems, sep="\n")
    return worst < LIMIT


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands = {"make": make, "save_again": save_again}
    if command in commands:
        commands[command](*arguments)
    else:
        sys.exit(not main(command, *arguments))
