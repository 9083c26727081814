"""Converts Hugging Face models: `hf import FOLDER --out=RUN_DIR` and `hf export RUN_DIR --out=FOLDER`.

`import` also reads a GGUF file of a LLaMA model. An imported run can be decoded (`infer --run_dir=RUN_DIR`), evaluated, and
fine-tuned (RUN_DIR/config.gin in place of a size, and runs/finetune.gin with --gin.INITIAL=RUN_DIR).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import atomic
from t5x_like.run_dir import RunDir
from t5x_like.types import Params, Vocabulary

ORIGINAL = "hf_config.json"
EXAMPLES = """examples:
  t5x_like hf import ~/models/SmolLM2-135M --out=/tmp/smollm2
  t5x_like hf import model-q4_1.gguf --out=/tmp/smollm2
  t5x_like infer --run_dir=/tmp/smollm2 --chat --prompt='What is the capital of France?'
  t5x_like hf export /tmp/my_run --out=/tmp/for_transformers
  t5x_like hf import ~/models/SmolLM2-135M --adapter=my_lora --out=/tmp/smollm2_lora
  t5x_like hf export /tmp/tuned --adapter --out=/tmp/for_peft
"""


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like hf import` or `t5x_like hf export`."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = flags.Parser(prog="t5x_like hf", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="import | export")
    importing = commands.add_parser("import", help="convert a folder or GGUF file to a run directory")
    importing.add_argument("source", help="folder with config.json and safetensors, or a .gguf file")
    importing.add_argument("--ignore", default="", metavar="A,B", help="fields of config.json to ignore")
    importing.add_argument("--unrolled", action="store_true", help="unroll the layers instead of scanning them")
    importing.add_argument(
        "--adapter", metavar="FOLDER", help="an adapter of PEFT for the model: the run is that of its tuning"
    )
    importing.add_argument("--allow_nonfinite", action="store_true", help="accept weights that are NaN or infinite")
    exporting = commands.add_parser("export", help="convert a run to a folder that transformers loads")
    exporting.add_argument("source", help="run directory")
    exporting.add_argument("--adapter", action="store_true", help="write what the run tuned alone, in PEFT's format")
    exporting.add_argument("--step", type=flags.count, help="checkpoint to read (default: the newest)")
    exporting.add_argument(
        "--model_type", help="model_type to write (default: the imported one, or the first that fits)"
    )
    exporting.add_argument(
        "--shard_gb", type=flags.positive_number, default=5.0, help="maximum file size in GB (default: %(default)s)"
    )
    for command in (importing, exporting):
        command.add_argument("--out", required=True, help="folder to write; must not exist or be empty")
        command.add_argument("--dtype", default="stored", help="float32, bfloat16 or float16 (default: as stored)")
    runtime.add_flags(importing)
    args = runtime.parse_args(parser, argv)
    out = Path(args.out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={args.out} already exists; give a new folder, or remove it")
    (import_model if args.command == "import" else export_model)(args, out)
    return 0


def dtype_of(name: str) -> Any:
    """The dtype of a name; None for "stored".

    Raises:
      ConfigError: an unknown name.
    """
    import jax.numpy as jnp

    known = {"stored": None, "float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if name not in known:
        raise ConfigError(f"--dtype={name} is unknown; give one of {', '.join(known)}")
    return known[name]


def progress_bar(label: str) -> Callable[[Iterable, int], Iterator]:
    """Returns a function (items, total) that shows a progress bar while the items are consumed."""
    from t5x_like.progress import track

    return lambda items, total: track(items, label, total)


def import_model(args: argparse.Namespace, out: Path) -> None:
    """Writes the run directory under a temporary name, and renames it once it is complete."""
    from t5x_like import partitioning

    source, dtype = Path(args.source).expanduser(), dtype_of(args.dtype)
    if not source.exists():
        raise ConfigError(f"{args.source} does not exist; give a folder with config.json, or a .gguf file")
    mesh = partitioning.make_mesh()
    if args.gin_file:
        mesh = runtime.from_flags(args).evaluate("trainer.train.mesh")
    options: dict[str, Any] = {
        "mesh": mesh,
        "dtype": dtype,
        "scan": not args.unrolled,
        "progress": progress_bar("import"),
    }
    options["allow_nonfinite"] = args.allow_nonfinite
    options["ignore"] = tuple(filter(None, args.ignore.split(",")))
    read = from_gguf if source.is_file() else from_folder
    model, params, config, vocabulary = read(source, options)
    adapter = None if args.adapter is None else read_adapter(Path(args.adapter).expanduser(), model, params, config)
    with atomic.new_folder(out) as partial:
        write_run(partial, model if adapter is None else adapter.model, params, config, vocabulary, adapter)
    hint = "" if vocabulary is None else f"; try: t5x_like infer --run_dir={args.out} --prompt='...'"
    print(f"imported {args.source} as {args.out}{hint}")


def from_folder(source: Path, options: dict[str, Any]) -> tuple[Any, Params, dict[str, Any], Vocabulary | None]:
    """Reads a folder: (model, params, config.json, vocabulary or None)."""
    from t5x_like import hf
    from t5x_like.data.tokenizers import folder as tokenizer_folder
    from t5x_like.hf import fields

    config, vocabulary = fields.read_config(source), None
    if tokenizer_folder.has_tokenizer(source):
        vocab_size = fields.Fields(config, str(source / "config.json")).optional("vocab_size", 1)
        vocabulary = tokenizer_folder.read_folder(source, vocab_size)
    else:
        print(f"{source} has no tokenizer: the run can be fine-tuned and exported, but not decoded", file=sys.stderr)
    return *hf.load(source, **options), config, vocabulary


def from_gguf(source: Path, options: dict[str, Any]) -> tuple[Any, Params, dict[str, Any], Vocabulary | None]:
    """Reads a GGUF file: (model, params, config.json, vocabulary)."""
    from t5x_like import hf
    from t5x_like.data.tokenizers import gguf as gguf_tokenizer
    from t5x_like.hf import gguf

    reader = gguf.open_file(source)
    values = gguf.read_metadata(reader)
    config = gguf.convert_config(values, [tensor.name for tensor in reader.tensors], str(source))
    return *hf.load(source, **options), config, gguf_tokenizer.from_gguf(values, config["vocab_size"])


def read_adapter(folder: Path, model: Any, params: Params, config: dict[str, Any]) -> Any:
    """The adapter of a folder of PEFT for the model of a config.json."""
    from t5x_like.hf import families
    from t5x_like.tuning import importing
    from t5x_like.tuning.names import Names

    return importing.read(folder, Names(families.FAMILIES[config["model_type"]], model), params)


def write_run(
    folder: Path,
    model: Any,
    params: Params,
    config: dict[str, Any],
    vocabulary: Vocabulary | None,
    adapter: Any = None,
) -> None:
    """Writes config.gin, the checkpoint of step 0, the vocabulary and the original config.json.

    With an adapter the run is one that trained it: the model's parameters are the frozen ones.

    Raises:
      RuntimeError: config.gin does not describe the same model.
    """
    from t5x_like import checkpoints
    from t5x_like.checkpoints import frozen
    from t5x_like.cli.gin import text as gin_text
    from t5x_like.hf import modules

    formatted = gin_text.format_model(model, None if adapter is None else adapter.transform)
    text = f"# Imported by t5x_like hf import, model_type {config['model_type']}.\n{formatted}"
    run_dir = RunDir(folder)
    run_dir.config.write_text(text)
    parsed = runtime.parse([str(run_dir.config)], ()).evaluate("%MODEL")
    if differences := list(modules.find_differences(model, parsed)):
        raise RuntimeError(f"config.gin does not describe the imported model: {'; '.join(differences[:3])}")
    (folder / ORIGINAL).write_text(json.dumps(config, indent=2) + "\n")
    if vocabulary is not None:
        vocabulary.save(run_dir.vocabulary)
    meta: dict[str, Any] = {"data": "imported"}
    if adapter is not None:
        meta["frozen"] = frozen.describe(frozen.save(folder, params), folder)
        params = adapter.trained
    saver = checkpoints.Checkpointer(run_dir.checkpoints)
    saver.save(0, {"params": params}, meta)
    saver.close()


def export_model(args: argparse.Namespace, out: Path) -> None:
    """Writes a run's parameters, config.json and tokenizer; parameters keep their dtype unless --dtype is given."""
    from t5x_like import hf
    from t5x_like.cli import setup
    from t5x_like.data.tokenizers import folder as tokenizer_folder
    from t5x_like.hf import families

    dtype = dtype_of(args.dtype)
    run = setup.TrainedRun(args.source, (), args.step)
    if args.adapter:
        return export_adapter(args, run, out)
    original = Path(args.source) / ORIGINAL
    extra = json.loads(original.read_text()) if original.exists() else {}
    model_type = args.model_type or extra.get("model_type")
    family, _ = families.build_config(run.model, model_type)
    vocabulary = run.vocabulary
    if not extra and vocabulary is not None:
        extra = {f"{kind}_token_id": getattr(vocabulary, kind) for kind in ("bos", "eos", "pad")}
    hf.save(
        run.model,
        run.stored_params(families.example_batch(run.model)),
        out,
        model_type=family.model_type,
        extra=extra,
        dtype=dtype,
        shard_bytes=int(args.shard_gb * 1e9),
        finish=lambda folder: None if vocabulary is None else tokenizer_folder.export(vocabulary, folder),
        progress=progress_bar("export"),
    )
    print(f"exported {args.source} (step {run.step}) as {args.out}, model_type {family.model_type}")


def export_adapter(args: argparse.Namespace, run: Any, out: Path) -> None:
    """Writes what a run tuned as a folder of PEFT."""
    from t5x_like.hf import families
    from t5x_like.tuning import exporting, virtual
    from t5x_like.tuning.names import Names

    original = Path(args.source) / ORIGINAL
    stored = json.loads(original.read_text()) if original.exists() else {}
    model, batch = virtual.without(run.model), families.example_batch(run.model)
    family, _ = families.build_config(model, args.model_type or stored.get("model_type"))
    (trained, _), base = run.stored_parts(batch), run.base_params(batch, model)
    names = Names(family, model)
    source = stored.get("_name_or_path") or args.source
    with atomic.new_folder(out) as partial:
        exporting.write(partial, names, run.transform, trained, base, source)
    print(f"exported what {args.source} (step {run.step}) tuned as {args.out}; its base is {source}")
