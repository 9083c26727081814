"""Every size in gin_configs/sizes has its published number of parameters, names their axes, and trains for one step.

Steps are traced at the published shapes with scanned layers: model, objective, gradients, update, and shardings over eight
devices. Nothing is compiled, which would take hundreds of times longer. `test_gin_architectures` compiles and runs every
family's tiny size; sizes that change modules of their family, not only numbers, run here with small numbers.
"""

import json
import math

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax.core import meta

from t5x_like import parameters, partitioning
from t5x_like.cli.gin import runtime
from t5x_like.objectives.electra import ReplacedTokenDetection
from t5x_like.objectives.lm import LanguageModel
from t5x_like.precision import Precision
from t5x_like.training import state
from t5x_like.training.step import TrainStep, jit_step
from tests.gin_models import SIZES, TINY, batch_of, family_of, model_of, shapes

AXES = {"embed", "vocab", "heads", "kv_heads", "head_dim", "mlp", "expert", "layers"} | {
    "position", "relpos", "norm", "router"
}  # fmt: skip

# Relative tolerances: equal; figures of three or four digits; figures rounded by the paper; GLaM, whose figures fit a
# vocabulary of 32k for the two smaller sizes and 256k for the largest.
EXACT, DIGITS, ROUNDED, GLAM = 0.0, 0.004, 0.01, 0.03


def masked_lm(width: int, vocab: int, embed: int | None = None) -> int:
    """Returns parameters of the masked-LM head, which released bodies lack: dense, norm, a bias per token id."""
    embed = embed or width
    return width * embed + embed + 2 * embed + vocab


def detector(width: int) -> int:
    """Returns parameters of ELECTRA's head: dense and one logit."""
    return width * width + width + width + 1


def generator(embed: int, layers: int, width: int = 256, vocab: int = 30522) -> int:
    """Returns the closed form of a released ELECTRA generator without its head; the paper does not count generators."""
    projection = embed * width + width if embed != width else 0
    layer = 4 * (width * width + width) + 8 * width * width + 5 * width + 4 * width
    return (vocab + 512 + 2) * embed + 2 * embed + projection + layers * layer


def t5(width: int, encoder: int, decoder: int, heads: int, mlp: int, vocab: int, biases: int = 2) -> int:
    """Returns the closed form of T5 v1.1 with heads of 64 and `biases` tables of 32 relative positions."""
    attention, gated = 4 * width * 64 * heads, 3 * width * mlp
    layers = encoder * (attention + gated + 2 * width) + decoder * (2 * attention + gated + 3 * width)
    return 2 * vocab * width + layers + 2 * width + biases * 32 * heads


# Switch: published as 7.4B. Embedding, 36 attentions, 12 dense MLPs, 12 x 128 experts with routers, norms, biases.
SWITCH = (
    32128 * 768 + 36 * 4 * 768**2 + 12 * 2 * 768 * 3072 + 12 * 128 * (2 * 768 * 3072 + 768)
    + (2 * 12 + 3 * 12 + 2) * 768 + 2 * 32 * 12
)  # fmt: skip
# Qwen2 57B-A14B: two tables and a norm; a layer's attention with its biases, experts, router, shared expert, gate, norms.
QWEN2_57B = (2 * 151936 + 1) * 3584 + 28 * (
    2 * 3584**2 + 3584 + 2 * (3584 + 1) * 512 + 64 * (3 * 3584 * 2560 + 3584) + 3 * 3584 * 20480 + 3 * 3584
)

# EXACT counts are those of released checkpoints, or of the closed forms above where they are used.
PUBLISHED = {
    "gpt1/base": (116_534_784, EXACT),
    "gpt2/small": (124_439_808, EXACT),
    "gpt2/medium": (354_823_168, EXACT),
    "gpt2/large": (774_030_080, EXACT),
    "gpt2/xl": (1_557_611_200, EXACT),
    "gpt3/125m": (125.2e6, DIGITS),
    "gpt3/350m": (355.9e6, DIGITS),
    "gpt3/760m": (760.3e6, DIGITS),
    "gpt3/1_3b": (1.316e9, DIGITS),
    "gpt3/2_7b": (2.652e9, DIGITS),
    "gpt3/6_7b": (6.658e9, DIGITS),
    "gpt3/13b": (12.85e9, DIGITS),
    "gpt3/175b": (174.6e9, DIGITS),
    "llama/7b": (6_738_415_616, EXACT),
    "llama/13b": (13_015_864_320, EXACT),
    "llama/33b": (32_528_943_616, EXACT),
    "llama/65b": (65_285_660_672, EXACT),
    "llama2/7b": (6_738_415_616, EXACT),
    "llama2/13b": (13_015_864_320, EXACT),
    "llama2/70b": (68_976_648_192, EXACT),
    "code_llama/7b": (6_738_546_688, EXACT),
    "code_llama/34b": (33_743_970_304, EXACT),
    "llama3/8b": (8_030_261_248, EXACT),
    "llama3/70b": (70_553_706_496, EXACT),
    "llama3/8b_3_1": (8_030_261_248, EXACT),
    "llama3/70b_3_1": (70_553_706_496, EXACT),
    "llama3/405b": (405_853_388_800, EXACT),
    "llama3/1b": (1_235_814_400, EXACT),
    "llama3/3b": (3_212_749_824, EXACT),
    "mistral/7b": (7_241_732_096, EXACT),
    "mixtral/8x7b": (46_702_792_704, EXACT),
    "smollm2/135m": (134_515_008, EXACT),
    "smollm2/360m": (361_821_120, EXACT),
    "smollm2/1_7b": (1_711_376_384, EXACT),
    "palm/8b": (8.63e9, DIGITS),
    "palm/62b": (62.50e9, DIGITS),
    "palm/540b": (540.35e9, DIGITS),
    "t5/small": (60_506_624, EXACT),
    "t5/base": (222_903_552, EXACT),
    "t5/large": (737_668_096, EXACT),
    "t5/3b": (2_851_598_336, EXACT),
    "t5/11b": (11_307_321_344, EXACT),
    "t5_1_1/small": (76_961_152, EXACT),
    "t5_1_1/base": (247_577_856, EXACT),
    "t5_1_1/large": (783_150_080, EXACT),
    "t5_1_1/xl": (2_849_757_184, EXACT),
    "t5_1_1/xxl": (11_135_332_352, EXACT),
    "mt5/small": (300_176_768, EXACT),
    "mt5/base": (582_401_280, EXACT),
    "mt5/large": (1_229_581_312, EXACT),
    "mt5/xl": (3_742_619_648, EXACT),
    "mt5/xxl": (12_921_057_280, EXACT),
    # Published as 300M, 582M, 1.23B, 3.74B and 12.9B; the small one's closed form is its checkpoint's 299,637,760.
    "byt5/small": (t5(1472, 12, 4, 6, 3584, 384), EXACT),
    "byt5/base": (t5(1536, 18, 6, 12, 3968, 384), EXACT),
    "byt5/large": (t5(1536, 36, 12, 16, 3840, 384), EXACT),
    "byt5/xl": (t5(2560, 36, 12, 32, 6720, 384), EXACT),
    "byt5/xxl": (t5(4672, 36, 12, 64, 12352, 384), EXACT),
    "umt5/small": (t5(512, 8, 8, 6, 1024, 256384, 16), EXACT),
    "umt5/base": (t5(768, 12, 12, 12, 2048, 256384, 24), EXACT),
    "umt5/xl": (t5(2048, 24, 24, 32, 5120, 256384, 48), EXACT),
    "umt5/xxl": (t5(4096, 24, 24, 64, 10240, 256384, 48), EXACT),
    "ul2/20b": (19.59e9, DIGITS),
    "switch_t5/base_128": (SWITCH, EXACT),
    "glam/1_7b_64e": (27e9, GLAM),
    "glam/8b_64e": (143e9, GLAM),
    "glam/64b_64e": (1.16e12, GLAM),
    "lamda/137b": (137.7e9, DIGITS),
    "bert/base": (109_482_240 + masked_lm(768, 30522), EXACT),
    "bert/large": (335_141_888 + masked_lm(1024, 30522), EXACT),
    "roberta/base": (124_645_632 + masked_lm(768, 50265), EXACT),
    "roberta/large": (355_359_744 + masked_lm(1024, 50265), EXACT),
    "albert/base": (11_683_584 + masked_lm(768, 30000, 128), EXACT),
    "albert/large": (17_683_968 + masked_lm(1024, 30000, 128), EXACT),
    "albert/xlarge": (58_724_864 + masked_lm(2048, 30000, 128), EXACT),
    "albert/xxlarge": (222_595_584 + masked_lm(4096, 30000, 128), EXACT),
    "electra_discriminator/small": (13_483_008 + detector(256), EXACT),
    "electra_discriminator/base": (108_891_648 + detector(768), EXACT),
    "electra_discriminator/large": (334_092_288 + detector(1024), EXACT),
    "electra_generator/small": (generator(128, 12) + masked_lm(256, 30522, 128), EXACT),
    "electra_generator/base": (generator(768, 12) + masked_lm(256, 30522, 768), EXACT),
    "electra_generator/large": (generator(1024, 24) + masked_lm(256, 30522, 1024), EXACT),
    # The bodies, and the head's bias per word.
    "xlnet/base": (116_718_336 + 32000, EXACT),
    "xlnet/large": (360_268_800 + 32000, EXACT),
    "bart/base": (139_420_416, EXACT),
    "bart/large": (406_291_456, EXACT),
    "gopher/44m": (43.6e6, DIGITS),
    "gopher/117m": (116.6e6, DIGITS),
    "gopher/417m": (417.2e6, DIGITS),
    "gopher/1_4b": (1.374e9, DIGITS),
    "gopher/7_1b": (7.110e9, DIGITS),
    "gopher/280b": (279.7e9, DIGITS),
    "chinchilla/70b": (70.055e9, DIGITS),
    "opt/125m": (125_239_296, EXACT),
    "opt/350m": (331_196_416, EXACT),
    "opt/1_3b": (1_315_758_080, EXACT),
    "opt/2_7b": (2_651_596_800, EXACT),
    "opt/6_7b": (6_658_473_984, EXACT),
    "opt/13b": (12_853_473_280, EXACT),
    "opt/30b": (29_974_540_288, EXACT),
    "opt/66b": (65_719_701_504, EXACT),
    "opt/175b": (174.60e9, DIGITS),
    "bloom/560m": (559_214_592, EXACT),
    "bloom/1b1": (1_065_314_304, EXACT),
    "bloom/1b7": (1_722_408_960, EXACT),
    "bloom/3b": (3_002_557_440, EXACT),
    "bloom/7b1": (7_069_016_064, EXACT),
    "bloom/176b": (176_247_271_424, EXACT),
    "galactica/125m": (125e6, ROUNDED),
    "galactica/1_3b": (1.31e9, DIGITS),
    "galactica/6_7b": (6.66e9, DIGITS),
    "galactica/30b": (30.0e9, DIGITS),
    "galactica/120b": (121.3e9, DIGITS),
    "gptj/6b": (6_050_882_784, EXACT),
    "codegen/350m": (356.7e6, DIGITS),
    "codegen/2b": (2.779e9, DIGITS),
    "codegen/6b": (7.06e9, DIGITS),
    "codegen/16b": (16.03e9, DIGITS),
    "gpt_neox/20b": (20_554_567_680, EXACT),
    "phi/1_5": (1_418_270_720, EXACT),
    "phi/2": (2_779_683_840, EXACT),
    "falcon/7b": (6_921_720_704, EXACT),
    "falcon/40b": (41.30e9, DIGITS),
    "falcon/180b": (179_522_565_120, EXACT),
    "gemma/2b": (2_506_172_416, EXACT),
    "gemma/7b": (8_537_680_896, EXACT),
    "gemma2/2b": (2_614_341_888, EXACT),
    "gemma2/9b": (9_241_705_984, EXACT),
    "gemma2/27b": (27_227_128_320, EXACT),
    "gemma3/1b": (999_885_952, EXACT),
    # Without the image parameters: the encoder's 416,866,032 and the 1152 * WIDTH + 1152 of its projection.
    "gemma3/4b": (4_300_079_472 - 416_866_032 - 1152 * 2561, EXACT),
    "gemma3/12b": (12_187_325_040 - 416_866_032 - 1152 * 3841, EXACT),
    "gemma3/27b": (27_432_406_640 - 416_866_032 - 1152 * 5377, EXACT),
    "qwen2/0_5b": (494_032_768, EXACT),
    "qwen2/1_5b": (1_543_714_304, EXACT),
    "qwen2/7b": (7_615_616_512, EXACT),
    "qwen2/72b": (72_706_203_648, EXACT),
    "qwen2_moe/1_5_a2_7b": (14_315_784_192, EXACT),
    "qwen2_moe/57b_a14b": (QWEN2_57B, EXACT),
    "qwen3/0_6b": (596_049_920, EXACT),
    "qwen3/1_7b": (1_720_574_976, EXACT),
    "qwen3/4b": (4_022_468_096, EXACT),
    "qwen3/8b": (8_190_735_360, EXACT),
    "qwen3/14b": (14_768_307_200, EXACT),
    "qwen3/32b": (32_762_123_264, EXACT),
    "qwen3_moe/30b_a3b": (30_532_122_624, EXACT),
    "qwen3_moe/235b_a22b": (235_093_634_560, EXACT),
    "olmo2/1b": (1_484_916_736, EXACT),
    "olmo2/7b": (7_298_617_344, EXACT),
    "olmo2/13b": (13_716_198_400, EXACT),
    "olmo2/32b": (32_234_279_936, EXACT),
}


MESH, OPTIMIZER = partitioning.make_mesh(), optax.sgd(1e-2)


def abstract_batch(rows: int = 8, length: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch for any family."""
    batch = batch_of(rows, length, 9)
    targets = batch.pop("targets")
    for side in ("encoder", "decoder"):
        batch |= {f"{side}_target_tokens": targets, f"{side}_loss_weights": targets.astype("float32")}
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}


def layout_of(model: nn.Module) -> state.Layout:
    return state.layout(model, OPTIMIZER, abstract_batch(), MESH)


def trace_step(model: nn.Module, objective, layout: state.Layout) -> None:
    """Traces one training step; the state must keep its shapes and dtypes, and the loss must be a float32 scalar."""
    view = parameters.view(parameters.Freeze(), Precision())
    batch_sharding = partitioning.batch_sharding(MESH, partitioning.RULES)
    step = jit_step(TrainStep(model.apply, objective, OPTIMIZER, view), layout, batch_sharding, MESH)
    before = layout.abstract
    with partitioning.on(MESH, partitioning.RULES):
        after, metrics = jax.eval_shape(step, before, abstract_batch(), {})
    jax.tree.map(
        lambda a, b: None if (a.shape, a.dtype) == (b.shape, b.dtype) else pytest.fail(f"{a} {b}"), before, after
    )
    assert metrics["loss"][0].shape == () and metrics["loss"][0].dtype == jnp.float32


def assert_axes_named(boxed) -> None:
    for box in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata)):
        assert isinstance(box, nn.LogicallyPartitioned), box
        assert len(box.names) == box.value.ndim and set(box.names) <= AXES, box


def count(boxed) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(boxed)))


@pytest.mark.parametrize("size", TINY)
def test_a_tiny_size_is_small_and_names_its_axes(size):
    boxed = shapes(model_of(size, "--gin.SCAN=True"))
    assert_axes_named(boxed)
    assert count(boxed) < 400_000


@pytest.mark.parametrize("size", sorted(set(SIZES) - set(TINY)))
def test_a_size_has_its_published_parameters_and_trains(size):
    model = model_of(size)
    layout = layout_of(model)
    assert_axes_named(layout.boxed.params)
    published, tolerance = PUBLISHED[size.removeprefix("sizes/").removesuffix(".gin")]
    assert count(layout.boxed.params) == pytest.approx(published, rel=tolerance, abs=0)
    if family_of(size) != "electra_discriminator":
        trace_step(model, LanguageModel(side="decoder" if "decoder" in layout.boxed.params else "encoder"), layout)


@pytest.mark.parametrize("size", [size for size in SIZES if family_of(size) == "electra_discriminator"])
def test_a_discriminator_trains_with_a_generator(size):
    macros = ("--gin.GENERATOR_WIDTH=64", "--gin.GENERATOR_HEADS=1", "--gin.GENERATOR_MLP_DIM=256", "--gin.SCAN=True")
    model = runtime.parse([size, "objectives/replaced_tokens.gin"], macros).evaluate("%MODEL")
    trace_step(model, ReplacedTokenDetection(), layout_of(model))


# Sizes that change modules, not only numbers, with the macros that make them small.
SPECIAL = {
    "opt/350m": {"LAYERS": 1, "EMBED_WIDTH": 8},
    "falcon/180b": {"LAYERS": 1, "KV_HEADS": 2},
}
SMALL = {"WIDTH": 16, "HEADS": 4, "HEAD_DIM": 4, "MLP_DIM": 32, "VOCAB_SIZE": 384, "LENGTH": 16, "BATCH_SIZE": 8}
RUN = {"STEPS": 1, "WARMUP_STEPS": 1, "TASK": "tiny", "trainer.train.log_every": 1, "trainer.Evaluation.batches": 1}


@pytest.mark.parametrize("size", SPECIAL)
def test_a_size_with_other_modules_than_its_family_trains(tiny_root, tmp_path, size):
    macros = SMALL | RUN | SPECIAL[size] | {"RUN_DIR": tmp_path, "token_cache.TokenCache.root": tiny_root}
    files = [f"sizes/{size}.gin", "objectives/causal_lm.gin", "optimizers/sgd.gin", "runs/pretrain.gin"]
    config = runtime.parse(files, [f"--gin.{name}={value}" for name, value in macros.items()])
    config.bind("trainer.train")()
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 4 < last["eval/loss"] < 20


def test_every_size_is_published_or_tiny_and_every_family_has_both():
    assert {f"sizes/{size}.gin" for size in PUBLISHED} | set(TINY) == set(SIZES)
    assert {size.split("/")[0] for size in PUBLISHED} == {family_of(size) for size in TINY}


def test_the_closed_form_of_t5_matches_released_checkpoints():
    assert t5(1472, 12, 4, 6, 3584, 384) == 299_637_760
    assert t5(512, 8, 8, 6, 1024, 32128) == 76_961_152
