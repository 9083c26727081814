"""Numbers of a model that are out of range are refused by name, before anything is computed."""

import pytest

from t5x_like.models import attention, blocks, linear, mlp, norms, positions, ranges, rope_scaling, routers, stack
from t5x_like.objectives.lm import LanguageModel
from tests import tiny


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (attention.SelfAttention(num_heads=0, head_dim=8), "SelfAttention.num_heads=0 is not a positive whole number"),
        (attention.SelfAttention(num_heads=2, head_dim=8, num_kv_heads=0), "num_kv_heads=0"),
        (linear.Embed(vocab_size=8, width=-4), "Embed.width=-4"),
        (mlp.Mlp(hidden_dim=4, dropout=1.0), "Mlp.dropout=1.0 is not a rate: 0 or more, and below 1"),
        (mlp.Mlp(hidden_dim=4, dropout=float("nan")), "Mlp.dropout=nan"),
        (norms.RMSNorm(epsilon=-1e-6), "RMSNorm.epsilon=-1e-06 is not finite, and 0 or more"),
        (positions.Rope(width=8, base=0), "Rope.base=0 is not positive and finite"),
        (positions.Rope(width=8, scaling=rope_scaling.Linear(factor=0.0)), "Linear.factor=0.0"),
        (routers.TopK(num_experts=4, top_k=0), "TopK.top_k=0"),
        (LanguageModel(label_smoothing=2.0), "LanguageModel.label_smoothing=2.0"),
        (LanguageModel(z_loss=-1.0), "LanguageModel.z_loss=-1.0"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name_wherever_it_is(part, message):
    inside = stack.Stack(blocks.Pattern([blocks.Block(mixer=part)]), repeats=2)
    for whole in (part, inside):
        with pytest.raises(ValueError) as error:
            ranges.check(whole)
        assert message in str(error.value)


def test_good_models_pass():
    ranges.check(tiny.decoder())
    ranges.check(LanguageModel(z_loss=1e-4, label_smoothing=0.1))
