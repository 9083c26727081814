"""Exports a trained run as programs that run without this package: StableHLO for jax, or a SavedModel for TensorFlow.

The functions are `predict` (prompts -> continuations) and `score` (tokens -> log-probabilities), of an encoder `encode` and
`score`. A gin file chooses how `predict` chooses tokens, as for infer: --gin_file=decoding/top_p.gin. The folder has the
parameters beside the programs, the vocabulary, a manifest with checksums, and a README.md with the code that loads it all.
The programs run on one device of any of --platforms; exporting needs none of them.
"""

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import atomic

if TYPE_CHECKING:
    from t5x_like.cli import setup
    from t5x_like.exporting.programs import Program

ANY = "polymorphic"
MAX_NEW_TOKENS = 128
EXAMPLES = """examples:
  t5x_like export --run_dir=/tmp/llama_tiny --out=/tmp/exported && python /tmp/exported/run.py 'def '
  t5x_like export --run_dir=/tmp/llama_tiny --out=/tmp/exported --format=saved_model --functions=score --batch_size=8
"""


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like export`."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = flags.Parser(prog="t5x_like export", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    flags.add_run(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; must not exist or be empty")
    parser.add_argument("--functions", metavar="A,B", help="predict, score, encode (default: all that the model has)")
    parser.add_argument("--format", default="stablehlo", help="stablehlo or saved_model (default: %(default)s)")
    parser.add_argument("--platforms", default="cpu,cuda,tpu", metavar="A,B", help="(default: %(default)s)")
    text = "number of {}, or polymorphic for any (default)"
    parser.add_argument("--batch_size", type=size, default=ANY, metavar="N", help=text.format("rows"))
    parser.add_argument("--length", type=size, default=ANY, metavar="N", help=text.format("tokens per row"))
    parser.add_argument(
        "--max_new_tokens", type=flags.length, help=f"of predict, per prompt (default: {MAX_NEW_TOKENS})"
    )
    parser.add_argument("--prefix", action="store_true", help="the run is a prefix LM: read prompts bidirectionally")
    runtime.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    import jax

    # Attention chooses its kernel for the device at hand; that for CPUs runs on all platforms.
    jax.config.update("jax_platforms", "cpu")
    export(args)
    return 0


def size(text: str) -> int | None:
    """Parses a size, or "polymorphic" as None."""
    return None if text == ANY else flags.length(text)


def export(args: argparse.Namespace) -> None:
    """Writes the folder.

    Raises:
      ConfigError: flags that cannot be met; see also `exporting.programs` and `exporting.lowering`.
    """
    from t5x_like.cli import setup
    from t5x_like.exporting import artifact, lowering, programs

    out = Path(args.out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={args.out} already exists; give a new folder, or remove it")
    check_choices("--format", [args.format], artifact.FORMATS)
    platforms = check_choices("--platforms", args.platforms.split(","), lowering.PLATFORMS)
    write_programs = saved_model_writer() if args.format == artifact.SAVED_MODEL else artifact.write_programs
    if importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError("jax.export needs the package flatbuffers; pip install 't5x_like[export]'")
    default = [] if args.gin_file else ["decoding/greedy.gin"]
    decoding = setup.read_decoding(runtime.from_flags(args, setup.DECODING, default))
    # Exporting takes one device, whatever the run was trained on.
    run = setup.TrainedRun(args.run_dir, ["--gin.trainer.train.mesh=None"], args.step)
    chosen, facts = make_programs(args, run, decoding)
    sizes = {programs.BATCH: args.batch_size, programs.LENGTH: args.length, programs.TARGET_LENGTH: args.length}
    for program in chosen:
        lowering.check_lengths(program, sizes)
    params = programs.flat(run.params(run.example_batch()))
    lowered = [lowering.lower(program, params, sizes, platforms) for program in chosen]
    facts["step"] = run.step
    with atomic.new_folder(out) as partial:
        write_programs(partial, lowered, params)
        artifact.finish(partial, args.format, lowered, params, run.model, run.vocabulary, facts)
    names = ", ".join(each.name for each in chosen)
    print(f"exported {names} of {args.run_dir} (step {run.step}) as {args.out}, whose README.md shows how to call them")


def make_programs(
    args: argparse.Namespace, run: "setup.TrainedRun", decoding: tuple[Any, Sequence[Any]]
) -> tuple[list["Program"], dict[str, Any]]:
    """The programs of --functions, and facts for the manifest.

    Raises:
      ConfigError: a function that the model does not have, or a flag that no function reads.
    """
    from t5x_like.exporting import programs

    known = programs.names_of(run.model)
    names = check_choices("--functions", args.functions.split(",") if args.functions else known, known, run.model)
    if args.prefix and (run.model.encoder_decoder or "decoder" not in run.model.sides):
        raise ConfigError(f"--prefix is for decoder-only models; the model is {type(run.model).__name__}")
    for flag, value in {"gin_file": args.gin_file, "max_new_tokens": args.max_new_tokens}.items():
        if value and "predict" not in names:
            raise ConfigError(
                f"--{flag} is for predict, which is not among the functions {', '.join(names)}; leave it out"
            )
    (sampler, processors), most = decoding, args.max_new_tokens or MAX_NEW_TOKENS
    make: Mapping[str, Callable[[], Program]] = {
        "predict": lambda: programs.predict(
            run.model, run.require_vocabulary(), sampler, most, processors, args.prefix
        ),
        "score": lambda: programs.score(
            run.model, run.require_vocabulary() if run.model.encoder_decoder else None, args.prefix
        ),
        "encode": lambda: programs.encode(run.model),
    }
    described = {"sampler": repr(sampler), "processors": [repr(each) for each in processors]}
    facts = {"decoding": described | {"max_new_tokens": most}} if "predict" in names else {}
    return [make[name]() for name in names], facts


def check_choices(flag: str, given: Sequence[str], known: Sequence[str], model: Any = None) -> Sequence[str]:
    """Returns `given` without repetitions.

    Raises:
      ConfigError: one is not in `known`.
    """
    if unknown := [name for name in given if name not in known]:
        whose = "" if model is None else f", the functions of {type(model).__name__}"
        raise ConfigError(f"{flag}={unknown[0]} is not one of {', '.join(known)}{whose}")
    return list(dict.fromkeys(given))


def saved_model_writer() -> Callable[..., None]:
    """The function that writes a SavedModel.

    Raises:
      ConfigError: TensorFlow or jax2tf is missing.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ConfigError("--format=saved_model needs TensorFlow; pip install tensorflow, or use --format=stablehlo")
    if importlib.util.find_spec("jax.experimental.jax2tf") is None:
        raise ConfigError(
            "--format=saved_model needs jax.experimental.jax2tf, which this jax does not have; use --format=stablehlo"
        )
    from t5x_like.tasks.exporting import saved_model

    return saved_model.write
