"""A model for lm-evaluation-harness (lm_eval), which reads tasks, asks for scores and texts, and computes metrics."""

import dataclasses
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from t5x_like import partitioning
from t5x_like.batching import generation
from t5x_like.data.chats import chat
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.decoding.slots import Strategy
from t5x_like.progress import track
from t5x_like.scoring.scorer import Scores
from t5x_like.scoring.texts import BATCHES, TextScorer
from t5x_like.serving import generator
from t5x_like.serving.requests import Settings
from t5x_like.types import Model, Params, Sampler

# Continues contexts: (their ids, their numbers, the sampler, the most new tokens, stop texts) -> texts without these.
Generate = Callable[[Sequence[Sequence[int]], Sequence[int], Sampler, int, Sequence[str]], Sequence[str]]
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
LENGTH = 256  # new tokens of tasks that do not say how many, as in the harness


class HarnessModel(LM):
    """A model of t5x_like as the harness uses one.

    Scores are those of `scorer`, completions those of `generate`. Contexts that are too long lose their left; `dropped` counts
    these tokens.
    """

    def __init__(self, scorer: TextScorer, params: Params, generate: Generate) -> None:
        super().__init__()
        self.scorer, self.params, self.generate, self.dropped = scorer, params, generate, 0
        self.vocabulary = scorer.vocabulary

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log p(continuation | context), whether greedy decoding gives the continuation) of each request."""
        pairs = [{"context": request.args[0], "continuation": request.args[1]} for request in requests]
        return [(scores.log_prob, scores.greedy) for scores in self.score(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """The log-probability of each document, in windows."""
        return [scores.log_prob for scores in self.score([{"text": request.args[0]} for request in requests])]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The completion of each context up to the first stop text.

        Raises:
          ValueError: the model has no decoder, a setting is unknown or out of range, or there is no room for a context.
        """
        generation.check_generates(self.scorer.scorer.model)
        groups = defaultdict(list)
        for number, request in enumerate(requests):
            groups[read_settings(request.args[1])].append(number)
        texts: dict[int, str] = {}
        for (sampler, length, stops), numbers in groups.items():
            contexts = [self.cut_context(requests[number].args[0], length) for number in numbers]
            texts |= zip(numbers, self.generate(contexts, numbers, sampler, length, stops), strict=True)
        return [texts[number] for number in range(len(requests))]

    def score(self, records: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """The scores of records.

        Raises:
          ValueError: one of them has none.
        """
        size = BATCHES * self.scorer.scorer.function.size
        chunks = [records[begin : begin + size] for begin in range(0, len(records), size)]
        results = []
        for chunk in track(chunks, "lm_eval", len(chunks)):
            for record, scores in zip(chunk, self.scorer(self.params, chunk), strict=True):
                if isinstance(scores, ValueError):
                    raise ValueError(f"{json.dumps(record)[:200]}: {scores}") from scores
                self.dropped += scores.dropped
                results.append(scores)
        return results

    def cut_context(self, context: str, new_tokens: int) -> list[int]:
        """The ids of a context, without those on the left that leave no room for `new_tokens`.

        Raises:
          ValueError: there is no room.
        """
        limits = self.scorer.limits
        if new_tokens >= limits["decoder"]:
            raise ValueError(
                f"max_gen_toks={new_tokens} of the task leaves no room for a context in the {limits['decoder']} tokens that the "
                "model reads; lower it in generation_kwargs, or raise max_length"
            )
        room = limits["encoder"] if self.scorer.seq2seq else limits["decoder"] - new_tokens
        ids = self.scorer.context_ids(context)
        self.dropped += max(0, len(ids) - room)
        return ids[-room:]

    @property
    def tokenizer_name(self) -> str:
        """Identifies the vocabulary and its chat template in the harness's caches."""
        return self.vocabulary.fingerprint.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The vocabulary's chat template."""
        return (self.vocabulary.chat_template or "") if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat; without a generation prompt it ends with the last message, which the model continues."""
        text = chat.render_chat(self.vocabulary, chat_history, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]


def read_settings(settings: Mapping[str, Any]) -> tuple[Sampler, int, tuple[str, ...]]:
    """(sampler, most new tokens, stop texts) of the harness's generation settings.

    Raises:
      ValueError: an unknown setting.
    """
    given: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), LENGTH))
    stops = tuple(text for text in given.pop("until") if text)
    length, sampled = given.pop("max_gen_toks"), given.pop("do_sample")
    if unknown := sorted(set(given) - set(SAMPLING)):
        raise ValueError(f"generation_kwargs has {unknown[0]}={given[unknown[0]]!r}, which is unknown; use {SAMPLING}")
    return (Sample(**given) if sampled else Greedy()), length, stops


@dataclasses.dataclass(frozen=True)
class Generator:
    """Continues contexts, the longest first, in rows that the next ones enter; see `serving.generator`."""

    model: Model
    params: Params
    scorer: TextScorer
    mesh: Mesh
    rules: partitioning.Rules = partitioning.RULES
    seed: int = 0

    def __call__(
        self,
        contexts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        sampler: Sampler,
        new_tokens: int,
        stops: Sequence[str] = (),
    ) -> list[str]:
        """The completions of contexts up to the first stop text; a sampled one depends on its number and the seed."""
        settings, strategy = Settings(max_new_tokens=new_tokens, stop=stops, seed=self.seed), Strategy(sampler)
        options, vocabulary = self.scorer.options, self.scorer.vocabulary
        continue_all = generator.Generator(
            self.model,
            self.params,
            vocabulary,
            settings,
            strategy,
            options.batch_size,
            prefix=options.prefix,
            mesh=self.mesh,
            rules=self.rules,
        )
        order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]), reverse=True)
        prompts = (generator.Prompt(contexts[i], numbers[i], i) for i in order)
        texts, errors = {}, []
        for prompt, (completion,) in track(continue_all(prompts), "lm_eval", len(order)):
            texts[prompt.record] = completion.text if stops else vocabulary.decode(completion.ids)
            errors += [completion.error] if completion.error else []
        if errors:
            warnings.warn(f"{len(errors)} of {len(contexts)} completions are cut off: {errors[0]}", stacklevel=2)
        return [texts[i] for i in range(len(contexts))]
