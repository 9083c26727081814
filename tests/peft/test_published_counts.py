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


def test_a_prompt_of_five_tokens_on_t5_xxl():
    """Lester et al. 2021, section 2.1: 20,480 parameters."""
    assert trained("t5_1_1/xxl", "peft/prompt", VIRTUAL_TOKENS=5, PROMPT_PARAMETERS=20_480) == 20_480


def test_a_prefix_has_keys_and_values_of_every_layer():
    """Li & Liang 2021: 2 layers x length x width."""
    assert trained("gpt2/medium", "peft/prefix", VIRTUAL_TOKENS=10) == 2 * 24 * 10 * 1024


def test_the_base_of_qlora_takes_at_most_0_6_bytes_a_parameter():
    memory = facts(["--gin_file=sizes/llama/7b.gin", "--gin_file=peft/qlora.gin"])
    assert memory["memory"]["frozen"] / memory["parameters"]["total"] < 0.6
    assert memory["memory"]["frozen"] + 4 * memory["parameters"]["trained"] == memory["memory"]["parameters"]
