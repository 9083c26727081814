"""Serves a model over HTTP with OpenAI's API: completions, chats with tools and JSON, embeddings, and a page to chat.

  t5x_like serve --run_dir=RUN_DIR
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{"model": "RUN_DIR", "prompt": "def "}'

RUN_DIR is a run made by `train` or `hf import`, a folder of Hugging Face, or a .gguf file.
Clients of OpenAI's API use the address http://127.0.0.1:8000/v1; a browser shows the page at http://127.0.0.1:8000. Only this
machine is answered. Another --host needs API keys:

  t5x_like serve --api_keys_file=keys.jsonl --new_api_key=NAME     # prints a key, of which the file keeps a hash
  t5x_like serve --run_dir=RUN_DIR --host=0.0.0.0 --api_keys_file=keys.jsonl

Names of control tokens (</s>, <|im_end|>) in prompts and messages are text. SIGTERM and Ctrl-C end the server after the accepted
requests are answered; new ones are refused. GET /health tells whether the server is ready, GET /metrics its numbers.
"""

import argparse
import importlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t5x_like import interrupts
from t5x_like.cli import flags
from t5x_like.cli.gin.runtime import ConfigError

if TYPE_CHECKING:
    from t5x_like.serving.engine import Engine
    from t5x_like.serving.http.server import Server
    from t5x_like.serving.reading import TextEncoder

POLL_SECONDS = 0.1
OF_DECODERS = ("max_length", "prefix", "warm_up", "quantization", "kv_cache_dtype")


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like serve`."""
    parser = flags.Parser(
        prog="t5x_like serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_run(parser, required=False)
    parser.add_argument("--model_name", help="what clients call the model (default: the name of the run directory)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=flags.port, default=8000, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--slots", type=flags.positive, default=16, help="requests continued at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max_length",
        type=flags.length,
        help="tokens of a prompt with its completion (default: 2048, or the position table if it is shorter)",
    )
    parser.add_argument("--prefix", action="store_true", help="the run is a prefix LM: read prompts bidirectionally")
    parser.add_argument(
        "--trust_prompts", action="store_true", help="read names of control tokens in prompts as tokens"
    )
    parser.add_argument(
        "--warm_up",
        action="store_true",
        help="make all slots at full length and compile all programs before the server is ready, so that no request waits for "
        "that; takes more memory, and on a CPU more time per token",
    )
    flags.add_quantization(parser)
    keys = parser.add_argument_group("who may ask")
    keys.add_argument("--api_keys_file", metavar="FILE", help="hashes of the keys, one of which every request needs")
    keys.add_argument(
        "--new_api_key", metavar="NAME", help="print a new key, append its hash to --api_keys_file, and end"
    )
    keys.add_argument("--without_api_keys", action="store_true", help="with another --host: answer everybody")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max_waiting",
        type=flags.positive,
        default=256,
        help="completions that wait for a slot (default: %(default)s)",
    )
    limits.add_argument(
        "--max_requests", type=flags.positive, default=256, help="requests at once (default: %(default)s)"
    )
    limits.add_argument(
        "--requests_per_minute",
        type=flags.positive,
        metavar="N",
        help="of one key, or one address (default: any number)",
    )
    limits.add_argument(
        "--request_seconds", type=flags.positive_number, default=600.0, help="time of an answer (default: %(default)s)"
    )
    flags.add_compile_cache(parser)
    args = parser.parse_args(argv)
    if args.new_api_key is not None:
        return print_new_key(args)
    import_libraries()
    check_access(args)
    from t5x_like.cli import setup

    setup.use_compile_cache(args.compile_cache)
    return serve(args)


def print_new_key(args: argparse.Namespace) -> int:
    """Prints a new key.

    Raises:
      ConfigError: there is no file to keep its hash in.
    """
    from t5x_like.serving.http import keys

    if args.api_keys_file is None:
        raise ConfigError("--new_api_key needs --api_keys_file=FILE, which keeps the key's hash")
    print(keys.create(args.api_keys_file, args.new_api_key))
    print(f"t5x_like: this key is shown once; {args.api_keys_file} has its hash", file=sys.stderr)
    return 0


def import_libraries() -> None:
    """Imports what the server needs besides the requirements.

    Raises:
      ConfigError: it is not installed.
    """
    for name in ("llguidance", "prometheus_client", "pydantic", "starlette", "uvicorn"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"serve needs the library {name}: pip install 't5x_like[serve]'") from error


def check_access(args: argparse.Namespace) -> None:
    """Checks that not everybody may ask unless that is wanted.

    Raises:
      ConfigError: there is no run, or another host than the loopback without keys.
    """
    if args.run_dir is None:
        raise ConfigError("give --run_dir, the directory of a run made by `t5x_like train`")
    if args.api_keys_file and args.without_api_keys:
        raise ConfigError("--api_keys_file and --without_api_keys exclude each other; leave one out")
    from t5x_like.serving.http.service import is_loopback

    if not (is_loopback(args.host) or args.api_keys_file or args.without_api_keys):
        raise ConfigError(
            f"--host={args.host} lets other machines ask; give --api_keys_file=FILE (--new_api_key makes a key), or "
            "--without_api_keys to answer everybody"
        )


def serve(args: argparse.Namespace) -> int:
    """Serves until a signal comes.

    Raises:
      ConfigError: the address cannot be listened on.
      Interrupted: a signal came; the accepted requests are answered.
    """
    from t5x_like.serving.http.keys import Keys
    from t5x_like.serving.http.limits import Limits
    from t5x_like.serving.http.server import Server
    from t5x_like.serving.http.service import Service

    name = args.model_name or Path(args.run_dir).resolve().name
    limits = Limits(
        requests=args.max_requests, request_seconds=args.request_seconds, per_minute=args.requests_per_minute
    )
    keys = Keys.load(args.api_keys_file) if args.api_keys_file else None
    service = Service(name, limits, keys, args.without_api_keys)
    try:
        server = Server(service, args.host, args.port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"--host={args.host} --port={args.port} cannot be listened on ({reason}); choose others"
        ) from error
    server.start()
    try:
        engine = open_engine(args)
    except BaseException:
        server.stop()
        raise
    service.open(engine, args.trust_prompts)
    print_address(server, args.host)
    with interrupts.postpone() as request:
        while not request.number and server.thread.is_alive():
            time.sleep(POLL_SECONDS)
        server.stop()
        engine.close()
    if not request.number:
        raise RuntimeError("the HTTP server has ended; its error is above")
    raise interrupts.Interrupted(request.number, "stopped; the accepted requests were answered")


def open_engine(args: argparse.Namespace) -> "Engine | TextEncoder":
    """The engine of the model, or what embeds texts if the model has no decoder.

    Raises:
      ConfigError: a flag of decoding, for a model without a decoder.
    """
    from t5x_like.cli.opening import open_model
    from t5x_like.serving.engine import Engine
    from t5x_like.serving.options import Options
    from t5x_like.serving.reading import TextEncoder

    options = Options(
        args.max_length,
        args.slots,
        max_waiting=args.max_waiting,
        prefix=args.prefix,
        fixed=args.warm_up,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
    )
    model, params, vocabulary, mesh, rules = open_model(args.run_dir, args.step)
    if "decoder" not in model.sides:
        given = [name for name in OF_DECODERS if getattr(args, name)]
        if given:
            raise ConfigError(f"--{given[0]} is for decoding, but {args.run_dir} has no decoder; leave it out")
        return TextEncoder(model, params, vocabulary, mesh, rules)
    engine = Engine(model, params, vocabulary, options, mesh, rules)
    if args.warm_up:
        engine.warm_up()
    return engine


def print_address(server: "Server", host: str) -> None:
    """Prints where the server is, and a request to it."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{server.port}"
    key = " -H 'Authorization: Bearer KEY'" if server.service.keys else ""
    body = json.dumps({"model": server.service.model, "prompt": "Once upon a time", "max_tokens": 32})
    print(f"{server.service.model} is served at {url}; the page is there, the API at {url}/v1. An example:")
    print(f"  curl {url}/v1/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}", flush=True)
