"""Writes harness.json: what lm-evaluation-harness's own `hf` model answers with the weights of tests/hf/fixtures.

PYTHONPATH=. python tests/evaluation/make_harness.py   # in an environment with torch, transformers and lm_eval[hf]
"""

import json
import tempfile
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tests.evaluation import harness_models as models


def ask(model: HFLM, kind: str, arguments: list[tuple]) -> list:
    requests = [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]
    return getattr(model, kind)(requests)


def answers(name: str, folder: Path) -> dict:
    """The scores and completions of one model."""
    backend = models.BACKENDS[name]
    options = dict(
        pretrained=str(folder), backend=backend, max_length=models.LENGTH, batch_size=1, device="cpu", dtype="float32"
    )
    model = HFLM(**options)
    pairs = [*models.PAIRS, *([models.NO_CONTEXT] if backend == "causal" else [])]
    settings = {"until": models.UNTIL, "max_gen_toks": models.NEW_TOKENS, "do_sample": False}
    result = {"loglikelihood": ask(model, "loglikelihood", pairs)}
    if backend == "causal":  # transformers 5.23 does not generate with fewer layers in the encoder than in the decoder
        made = ask(model, "generate_until", [(context, settings) for context, _ in models.PAIRS])
        greedy = [(context, f" {text}") for (context, _), text in zip(models.PAIRS, made, strict=True) if text]
        result |= {"generate_until": made, "greedy": [*zip(greedy, ask(model, "loglikelihood", greedy), strict=True)]}
        # With a bos of the tokenizer's the harness also scores that bos, given another one.
        model = HFLM(**options, add_bos_token=False)
        result["loglikelihood_rolling"] = ask(model, "loglikelihood_rolling", [(text,) for text in models.DOCUMENTS])
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {name: answers(name, models.write(name, Path(folder) / name)) for name in models.BACKENDS}
    path = Path(__file__).with_name("harness.json")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
