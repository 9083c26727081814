"""Every architecture with every objective and every kind of task trains, or is refused in one line that says what to use."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import batches, inference, partitioning
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.objectives.lm import LanguageModel
from t5x_like.training import contract
from tests import tiny, tiny_cache
from tests.evaluation import tasks
from tests.gin_models import CONFIGS

FAMILIES = ("llama", "t5_1_1", "bert", "roberta", "xlnet", "electra_discriminator")  # one of each kind of model
OBJECTIVES = sorted(path.stem for path in CONFIGS.glob("objectives/*.gin"))
KINDS = {"text": ("targets",), "pairs": ("inputs", "targets"), "chats": ("targets", "targets_mask")}
TEXT = {
    "llama": {"causal_lm", "prefix_lm", "ul2_prefix_lm", "fill_in_the_middle", "seq2seq"},
    "t5_1_1": {"span_corruption", "ul2", "bart"},
    "bert": {"masked_lm", "whole_word_masked_lm", "next_sentence", "sentence_order"},
    "roberta": {"masked_lm", "whole_word_masked_lm"},
    "xlnet": {"masked_lm", "whole_word_masked_lm", "permutation_lm"},
    "electra_discriminator": {"replaced_tokens"},
}
WORKS = {(family, name, "text") for family, names in TEXT.items() for name in names}
WORKS |= {("llama", "instruction", "pairs"), ("llama", "instruction", "chats"), ("t5_1_1", "seq2seq", "pairs")}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """A token cache of each kind of task."""
    root, ids = tmp_path_factory.mktemp("kinds"), [tasks.ids_of(text) for text in tiny_cache.documents(40)]
    features = {"inputs": ids, "targets": ids, "targets_mask": [np.arange(len(x)) % 2 for x in ids]}
    return {
        kind: tasks.write(root, kind, [{name: features[name][i] for name in names} for i in range(len(ids))], [])
        for kind, names in KINDS.items()
    }


@functools.lru_cache(maxsize=1)  # only the last: gin holds the parameters of the rows
def parts(family: str, objective: str):
    """The model, the objective and the class of rows of the packaged gin files."""
    numbers = {"LENGTH": 32, "INPUTS_LENGTH": 64, "TARGETS_LENGTH": 64}
    numbers |= {"GENERATOR_WIDTH": 8, "GENERATOR_HEADS": 2, "GENERATOR_MLP_DIM": 16}
    text = (CONFIGS / f"objectives/{objective}.gin").read_text()
    overrides = [f"--gin.{name}={value}" for name, value in numbers.items() if f"\n{name} =" in text]
    files = [f"sizes/{family}/tiny.gin", f"objectives/{objective}.gin", "optimizers/adamw.gin", "runs/pretrain.gin"]
    config = runtime.parse(files, [*overrides, "--gin.VOCAB_SIZE=384", "--gin.TASK=any", "--gin.RUN_DIR=any"])
    return config.evaluate("trainer.train.model"), config.evaluate("%OBJECTIVE"), config.evaluate("%ROWS")


def loss_shapes(model, objective, rows):
    """The shapes of a training step's loss; nothing is compiled."""

    def loss(batch):
        params = nn.unbox(model.init(jax.random.key(0), batch)["params"])
        return objective(model.apply, params, batch, jax.random.key(1))[:2]

    return jax.eval_shape(loss, batches.abstract(rows, 2))


def outcome(family: str, objective: str, cache) -> str:
    """The message of a refusal; "" if the combination trains."""
    try:
        model, loss, make_rows = parts(family, objective)
        rows = make_rows(cache=cache)
        contract.check(model, loss, rows)
    except (
        ConfigError
    ) as error:  # the objective has a model of its own (ELECTRA), whose parts the architecture does not set
        assert "EncoderOnly needs" in str(error), (family, objective, error)
        return str(error)
    except ValueError as error:
        assert "\n" not in str(error), (family, objective, error)
        assert "objectives/" in str(error), (family, objective, error)
        return str(error)
    assert all(x.shape == () and x.dtype == jnp.float32 for x in loss_shapes(model, loss, rows))
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_trains_or_is_refused_with_a_remedy(family, caches):
    for objective, kind in itertools.product(OBJECTIVES, KINDS):
        said = outcome(family, objective, caches[kind])
        assert (said == "") == ((family, objective, kind) in WORKS), (family, objective, kind, said)


def test_a_model_without_a_decoder_neither_generates_nor_scores(caches):
    model = tiny.encoder()
    with pytest.raises(ValueError, match=r"EncoderOnly\) has no decoder.*use a decoder-only or encoder-decoder model"):
        next(inference.infer(model, {}, ByteVocabulary(), ["a"]))
    evaluation = TaskEvaluation(tasks.write_pairs(caches["pairs"].root, "asked"))
    with pytest.raises(ValueError, match="has no decoder"):
        TaskEvaluator(evaluation, model, partitioning.make_mesh())


def test_parts_that_declare_nothing_are_not_checked(caches):
    """Objectives and rows of users may leave the declarations out."""

    def objective(apply, params, batch, rng=None):
        raise NotImplementedError

    class Bare:
        def __init__(self, needed):
            self.lengths, self.extra_features = {"decoder": 8}, {"mine": batches.Feature((8,), needed=needed)}

    contract.check(tiny.decoder(), objective, Bare(needed=True))
    contract.check(tiny.decoder(), LanguageModel(), Bare(needed=False))
    with pytest.raises(ValueError, match="rows=Bare have features of the decoder, but the encoder-only model"):
        contract.check(tiny.encoder(), objective, Bare(needed=True))
    with pytest.raises(ValueError, match="rows=Bare have mine, which .* LanguageModel ignore"):
        contract.check(tiny.decoder(), LanguageModel(), Bare(needed=True))
