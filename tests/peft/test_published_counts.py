"""The numbers of trained parameters that the papers give, counted from the shapes of the published sizes."""

import pytest

from t5x_like.cli import info
from t5x_like.cli.gin import runtime


def trained(size, *files, **macros):
    overrides = [f"--gin.{name}={value}" for name, value in macros.items()]
    names = [f"--gin_file={name}.gin" for name in (f"sizes/{size}", *files)]
    return facts([*names, *overrides])["parameters"]["trained"]


def facts(argv):
    parser = info.flags.Parser(prog="t5x_like info")
    parser.add_argument("--length", default=8)
    parser.set_defaults(encoder_length=None, batch_size=None, devices=1)
    runtime.add_flags(parser)
    return info.collect(runtime.parse_args(parser, argv))


@pytest.mark.parametrize(
    "size, rank, count",
    [
        ("roberta/base", 8, 294_912),  # LoRA, table 2: 0.3M
        ("gpt3/175b", 1, 4_718_592),  # LoRA, table 4: 4.7M
    ],
)
def test_lora_of_queries_and_values(size, rank, count):
    assert trained(size, "peft/lora", LORA_RANK=rank, LORA_PARAMETERS=count) == count


def test_another_count_than_the_declared_one_is_refused():
    with pytest.raises(ValueError, match="LoRA.parameters=294913, but 294,912 parameters are trained"):
        trained("roberta/base", "peft/lora", LORA_PARAMETERS=294_913)
