"""Settings of requests: what is out of range is refused by name."""

import math

import pytest

from t5x_like.serving.requests import Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"temperature": -0.1},
        {"temperature": "1"},
        {"top_p": 0},
        {"top_p": 1.1},
        {"typical_p": 0.0},
        {"repetition_penalty": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.0},
        {"top_k": True},
        {"top_log_probs": 21},
        {"seed": -1},
        {"stop": "text"},
        {"stop": [""]},
        {"stop": 5},
        {"stop_ids": "false"},
        {"grammar": "[0-9]+"},
        {"logit_bias": 5},
        {"logit_bias": {1: math.inf}},
        {"logit_bias": {"1": 1.0}},
        {"logit_bias": dict.fromkeys(range(301), 0.0)},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


def test_the_limits_themselves_are_allowed():
    Settings(max_new_tokens=1, temperature=0, top_p=1, min_p=1, frequency_penalty=-2, top_log_probs=20, seed=2**63 - 1)
    Settings(logit_bias={0: -math.inf}, stop=["\n\n"], temperature=2)
