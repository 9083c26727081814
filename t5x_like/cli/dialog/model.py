"""A trained model in a notebook: it generates, scores, trains by single steps, and shows what its layers compute.

model = t5x_like.InteractiveModel.from_run("runs/quickstart")
print(model)
print(model.generate(["def "])[0][0].text)
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import parameters, partitioning, prompt_batches, types
from t5x_like.accounting import flops
from t5x_like.cli.dialog import layers
from t5x_like.cli.opening import open_model
from t5x_like.data.rows import arrays
from t5x_like.data.tokenizers import vocabularies
from t5x_like.evaluation.task_evaluation import TaskEvaluation, TaskEvaluator
from t5x_like.objectives.lm import LanguageModel
from t5x_like.precision import Precision
from t5x_like.scoring.rows import length_limits
from t5x_like.scoring.scorer import Scores
from t5x_like.scoring.texts import ScoringOptions, TextScorer
from t5x_like.serving import engine
from t5x_like.serving.options import DEFAULT, Options
from t5x_like.serving.requests import Completion, Settings
from t5x_like.training import contract, state
from t5x_like.training.step import TrainStep


class InteractiveModel:
    """A model with its parameters and vocabulary; nothing is compiled before it is used.

    Attributes:
      params: the parameters now.
      steps: how many train steps have been done here.
    """

    def __init__(
        self,
        model: types.Model,
        params: types.Params,
        vocabulary: types.Vocabulary,
        mesh: Mesh | None = None,
        rules: partitioning.Rules = partitioning.RULES,
        optimizer: types.Optimizer | None = None,
        objective: types.Objective | None = None,
        options: Options = DEFAULT,
    ) -> None:
        """`optimizer` and `objective` (default: the cross-entropy of the batch's target tokens) are those of `train_step`."""
        self.model, self.params, self.vocabulary = model, params, vocabulary
        self.mesh, self.rules = partitioning.make_mesh() if mesh is None else mesh, rules
        self.optimizer, self.objective = optimizer, objective or LanguageModel(side=model.sides[-1])
        self.options, self.steps = options, 0
        self._state: state.TrainState | None = None

    @classmethod
    def from_run(
        cls,
        source: types.PathLike,
        step: int | None = None,
        mesh: Mesh | None = None,
        dtype: Any = None,
        optimizer: types.Optimizer | None = None,
        objective: types.Objective | None = None,
        options: Options = DEFAULT,
    ) -> "InteractiveModel":
        """Opens a run directory, a folder of Hugging Face, or a .gguf file; see `t5x_like.Engine.from_run`."""
        opened = open_model(source, step, mesh, dtype)
        return cls(*opened, optimizer, objective, options)

    def generate(
        self, prompts: Iterable[engine.Prompt], settings: Settings = engine.GREEDY, samples: int = 1
    ) -> list[list[Completion]]:
        """The completions of every prompt, `samples` of each; a prompt is a text, ids, or the messages of a chat.

        Raises:
          ValueError: the model has no decoder, or a prompt or the settings do not fit it.
        """
        return list(self.engine.generate(prompts, settings, samples))

    @functools.cached_property
    def engine(self) -> engine.Engine:
        """The engine that generates, with the parameters of now."""
        return engine.Engine(self.model, self.params, self.vocabulary, self.options, self.mesh, self.rules)

    def score(self, texts: Sequence[str | tuple[str, str]]) -> list[Scores]:
        """Log-probabilities of documents, and of (context, continuation) pairs.

        Raises:
          ValueError: a text cannot be scored.
        """
        records = [
            {"text": text} if isinstance(text, str) else dict(zip(("context", "continuation"), text, strict=True))
            for text in texts
        ]
        found = self.scorer(self.params, records)
        for scores in found:
            if isinstance(scores, ValueError):
                raise scores
        return [scores for scores in found if isinstance(scores, Scores)]

    @functools.cached_property
    def scorer(self) -> TextScorer:
        """What scores texts."""
        options = ScoringOptions(length_limits(self.model, self.options.max_length), prefix=self.options.prefix)
        return TextScorer(self.model, self.vocabulary, options, self.mesh, self.rules)

    def evaluate(self, evaluation: TaskEvaluation) -> dict[str, Any]:
        """The record of the metrics of a task, see `evaluation.task_metrics`.

        Raises:
          ValueError: the task has no metrics, or does not fit the model.
        """
        evaluator = TaskEvaluator(evaluation, self.model, self.mesh, self.rules, self.options.prefix)
        return evaluator.make_record(evaluator(self.params), self.steps)

    def train_step(self, batch: Mapping[str, np.ndarray] | Sequence[str]) -> dict[str, float]:
        """Updates the parameters once by the gradient of a batch, or of texts; returns the metrics before the update.

        A step that fails leaves the parameters as they were.

        Raises:
          ValueError: there is no optimizer, the objective does not fit the model, or texts are given to a model that is not
            decoder-only.
        """
        if self.optimizer is None:
            raise ValueError("train_step needs an optimizer; give InteractiveModel one, such as optimizers.adamw(1e-4)")
        contract.check_objective(self.model, self.objective, "give InteractiveModel another objective")
        given = dict(batch) if isinstance(batch, Mapping) else self.text_batch(batch)
        with partitioning.on(self.mesh, self.rules):
            before = self._train_state() if self._state is None else self._state
            self._state, metrics = self._step(before, given)
        self.params, self.steps = self._state.params, self.steps + 1
        if "engine" in self.__dict__:
            self.engine.close()
            del self.engine
        return {name: float(total) / max(float(count), 1e-9) for name, (total, count) in metrics.items()}

    def text_batch(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """A batch of documents as in pretraining: one per row, between the start token and the end of sequence.

        Raises:
          ValueError: the model is not decoder-only, there is no text, or `texts` is one.
        """
        if self.model.sides != ("decoder",):
            raise ValueError(f"{type(self.model).__name__} does not train on plain texts; give a batch of arrays")
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts={texts!r:.60} must be a list of at least one text")
        start, end = vocabularies.start_id(self.vocabulary), vocabularies.end_id(self.vocabulary)
        targets = [[*self.vocabulary.encode(text, literal=True), end] for text in texts]
        sizes = np.array([len(ids) for ids in targets])
        tokens_BL = np.zeros((len(targets), prompt_batches.round_up(sizes.max(), prompt_batches.BUCKET)), np.int32)
        for row_L, ids in zip(tokens_BL, targets, strict=True):
            row_L[: len(ids)] = ids
        return arrays.build_decoder(tokens_BL, sizes, start)

    def attention(self, text: str, target: str | None = None, part: str | None = None) -> np.ndarray:
        """The attention probabilities of a text, float32 [N, H, L, M]: layers, heads, queries, keys.

        An encoder-decoder reads `target` with its decoder. `part` is "encoder" or "decoder", whose attention to itself is
        meant, or "cross", the decoder's to the encoder, which is the default if there are both.

        Raises:
          ValueError: the model has no such attention, or `target` does not fit it.
        """
        part = part or ("cross" if self.model.encoder_decoder else self.model.sides[0])
        with partitioning.on(self.mesh, self.rules):
            return layers.attention_maps(self.model, self.params, self.read(text, target), part)

    def logit_lens(self, text: str, top: int = 5, target: str | None = None) -> layers.Lens:
        """The `top` tokens that each layer would predict at each position of a text, with their log-probabilities.

        An encoder-decoder reads `target` with its decoder, whose layers and positions are meant.

        Raises:
          ValueError: `target` does not fit the model, or `top` is not in 1 .. the size of the vocabulary.
        """
        if not 1 <= top <= self.model.vocab_size:
            raise ValueError(f"top={top} is not in 1 .. {self.model.vocab_size}, the size of the vocabulary")
        with partitioning.on(self.mesh, self.rules):
            return layers.logit_lens(self.model, self.params, self.read(text, target), top)

    def read(self, text: str, target: str | None = None) -> dict[str, np.ndarray]:
        """The batch of one row, without padding, that the model reads a text from, and an encoder-decoder its target.

        Raises:
          ValueError: an encoder-decoder has no target, or another model has one.
        """
        seq2seq = self.model.encoder_decoder
        if seq2seq == (target is None):
            need = "needs a target" if seq2seq else "has no target"
            raise ValueError(f"target={target!r}: {type(self.model).__name__} {need}, a text for the decoder of two")
        side = self.model.sides[0]
        ids = prompt_batches.prompt_ids({"prompt": text}, self.vocabulary, side == "encoder")
        batch = prompt_batches.pad_rows([ids], len(ids), side)
        if target is None:
            return batch
        ids = [vocabularies.start_id(self.vocabulary), *self.vocabulary.encode(target, literal=True)]
        return batch | prompt_batches.pad_rows([ids], len(ids), "decoder")

    def __str__(self) -> str:
        counts = flops.count_parameters(self.model, self._boxed)
        parts = ", ".join(f"{name} {count:,}" for name, count in counts["parts"].items())
        dtypes = ", ".join(sorted({str(x.dtype) for x in jax.tree.leaves(self.params)}))
        lines = [
            f"{type(self.model).__name__} with {counts['total']:,} parameters ({parts}) in {dtypes}",
            f"vocabulary: {self.vocabulary.vocab_size:,} ids, fingerprint {self.vocabulary.fingerprint}",
            f"devices: {self.mesh.size}; train steps done here: {self.steps}",
            str(self.model),
        ]
        return "\n".join(lines)

    @functools.cached_property
    def _boxed(self) -> types.Params:
        example = prompt_batches.one_token(self.model.sides)
        return parameters.init_abstract(self.model, example, self.mesh, self.rules, Precision())

    @functools.cached_property
    def _layout(self) -> state.Layout:
        assert self.optimizer is not None
        example = prompt_batches.one_token(self.model.sides)
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in example.items()}
        return state.layout(self.model, self.optimizer, shapes, self.mesh, self.rules)

    @functools.cached_property
    def _step(self) -> Any:
        assert self.optimizer is not None
        step = TrainStep(self.model.apply, self.objective, self.optimizer, lambda params, _: params)
        # The old state is not donated: a step that fails, or is interrupted, loses nothing.
        return jax.jit(step.__call__, out_shardings=(self._layout.shardings, NamedSharding(self.mesh, PartitionSpec())))

    def _train_state(self) -> state.TrainState:
        """The state before the first step."""
        optimizer, boxed_params = self.optimizer, self._boxed
        assert optimizer is not None

        def make(params: types.Params, key: jax.Array) -> state.TrainState:
            boxed = nn.meta.replace_boxed(boxed_params, params)
            return nn.unbox(state.TrainState(jnp.zeros((), jnp.int32), boxed, {}, optimizer.init(boxed), key))

        return jax.jit(make, out_shardings=self._layout.shardings)(self.params, jax.random.PRNGKey(0))
