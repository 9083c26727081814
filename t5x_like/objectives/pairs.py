"""Objectives over pairs of rows: rows 2 i and 2 i + 1 are the chosen and the rejected answer to prompt i.

The answer is where `{side}_loss_weights` are 1. The losses are the functions of `preference` and `reference_free`; the loss of a
batch is their mean over pairs. A pair of which an answer has no token is padding, and counts nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from t5x_like.objectives import preference, reference_free
from t5x_like.objectives.tokens import head_sums, hidden_states, sum_sown, token_logps
from t5x_like.types import Apply, Metrics, Params

GROUP = 2
REDUCTIONS = ("sum", "mean")  # of tokens; a mean over a batch's tokens would depend on how it is split


@dataclasses.dataclass(frozen=True)
class Sequences:
    """The log-probabilities of the answers of a batch, [N] each for N pairs.

    Attributes:
      chosen: log p of the chosen answers, over tokens or per token.
      rejected: those of the rejected ones.
      nll: minus log p of the chosen answers per token.
      weights: 1 for pairs, 0 for padding.
      auxiliary: the sum over pairs of the losses that the model adds (of routers).
    """

    chosen: jax.Array
    rejected: jax.Array
    nll: jax.Array
    weights: jax.Array
    auxiliary: jax.Array


def score(
    apply: Apply,
    params: Params,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None,
    side: str,
    chunk: int | None,
    reduce: str,
) -> Sequences:
    """Runs the model over both answers of every pair; `chunk` is as in `tokens.token_sums`.

    Raises:
      ValueError: an odd number of rows.
    """
    weights_BL = batch[f"{side}_loss_weights"]
    if weights_BL.shape[0] % GROUP:
        raise ValueError(f"the batch has {weights_BL.shape[0]} rows; a pair is {GROUP}: give an even number")
    x_BLD, sown = hidden_states(apply, params, batch, rng)
    sums = head_sums(apply, params, x_BLD, batch, side, lambda x, y: {"logp": token_logps(x, y)[0]}, chunk)
    count_B = jnp.sum(weights_BL, axis=1)
    mean_B = sums["logp"] / jnp.maximum(count_B, 1)
    chosen_N, rejected_N = in_pairs(mean_B if reduce == "mean" else sums["logp"])
    weights_N = jnp.min(count_B.reshape(-1, GROUP) > 0, axis=1).astype(jnp.float32)
    row_weights_B1 = jnp.repeat(weights_N / GROUP, GROUP)[:, None]
    losses = (value for name, (value, _) in sum_sown(sown, row_weights_B1).items() if name.startswith("losses/"))
    return Sequences(chosen_N, rejected_N, -in_pairs(mean_B)[0], weights_N, jnp.asarray(sum(losses), jnp.float32))


def in_pairs(x_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(chosen, rejected) [N] of a number per row."""
    x_N2 = x_B.reshape(-1, GROUP)
    return x_N2[:, 0], x_N2[:, 1]


def combine(loss_N: jax.Array, policy: Sequences, rewards: Metrics) -> tuple[jax.Array, jax.Array, Metrics]:
    """(total, weight, metrics) of a loss per pair and the metrics of its rewards."""
    weight = jnp.sum(policy.weights)
    values = {"loss": loss_N, "chosen_logp": policy.chosen, "rejected_logp": policy.rejected, "chosen_nll": policy.nll}
    metrics = {name: (jnp.sum(x_N * policy.weights), weight) for name, x_N in values.items()}
    return metrics["loss"][0] + policy.auxiliary, weight, jax.lax.stop_gradient(metrics | dict(rewards))


@dataclasses.dataclass(frozen=True)
class Preference:
    """A loss of `preference.PAIR_LOSSES` (DPO, IPO, ...) of the log-ratios to a reference, plus likelihood * NLL(chosen).

    Metrics: `loss`, those of `preference.pair_metrics`, the policy's `chosen_logp`, `rejected_logp`, and `chosen_nll` per token.

    Attributes:
      references: {"reference": source}, the model that the policy starts from, such as `references.FromRun(run_dir)`.
      loss: a key of `PAIR_LOSSES`; "sigmoid" is DPO.
      beta: the strength of the pull to the reference.
      reduce: "sum" of log-ratios over tokens, or the "mean" (TRL's IPO and "sigmoid_norm").
      label_smoothing: the probability that a label is wrong; None is the loss's own default.
      tau: of "discopop"; None is its own default.
      likelihood: weight of -log p(chosen) per token, RPO's alpha (Pang et al. 2024, arXiv:2404.19733, equation 1).
      chunk: the number of positions per row whose logits are computed at a time (None: all).
      side: the side of the answers.

    Raises:
      ValueError: an unknown or unfit argument, or no reference.
    """

    references: Mapping[str, Any]
    loss: str = "sigmoid"
    beta: float = 0.1
    reduce: str = "sum"
    label_smoothing: float | None = None
    tau: float | None = None
    likelihood: float = 0.0
    chunk: int | None = None
    side: str = "decoder"
    group: ClassVar[int] = GROUP
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    labels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.reduce not in REDUCTIONS:
            raise ValueError(f"Preference.reduce={self.reduce!r} is unknown; choose one of {', '.join(REDUCTIONS)}")
        if self.loss == "aot_unpaired":
            raise ValueError(
                "Preference.loss='aot_unpaired' compares all pairs of a batch, so it would depend on how it is split; "
                "choose another loss, or call preference.aot"
            )
        if set(self.references) != {"reference"}:
            raise ValueError(
                f'Preference.references has {sorted(self.references)}; give one, {{"reference": @references.FromRun()}}'
            )
        if not 0 <= self.likelihood < float("inf"):
            raise ValueError(f"Preference.likelihood={self.likelihood} is not a weight of 0 or more; the paper uses 1")
        self._losses(jnp.zeros(1), jnp.zeros(1))  # checks the other arguments

    def __call__(
        self,
        apply: Apply,
        params: Params,
        batch: Mapping[str, jax.Array],
        rng: jax.Array | None = None,
        *,
        references: Mapping[str, Params],
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        policy = score(apply, params, batch, rng, self.side, self.chunk, self.reduce)
        frozen = jax.lax.stop_gradient(references["reference"])
        reference = score(apply, frozen, batch, None, self.side, self.chunk, self.reduce)
        chosen_N, rejected_N = policy.chosen - reference.chosen, policy.rejected - reference.rejected
        loss_N = self._losses(chosen_N, rejected_N)
        if self.likelihood:
            loss_N += self.likelihood * policy.nll
        rewards = preference.pair_metrics(chosen_N, rejected_N, beta=self.beta, weights_N=policy.weights)
        return combine(loss_N, policy, rewards)

    def _losses(self, chosen_N: jax.Array, rejected_N: jax.Array) -> jax.Array:
        return preference.pair_loss(
            self.loss, chosen_N, rejected_N, beta=self.beta, label_smoothing=self.label_smoothing, tau=self.tau
        )


@dataclasses.dataclass(frozen=True)
class ReferenceFree:
    """The base of the losses of `reference_free`, of log-probabilities of answers; metrics and fields as of `Preference`."""

    beta: float
    chunk: int | None = None
    side: str = "decoder"
    reduce: ClassVar[str] = "mean"
    group: ClassVar[int] = GROUP
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    labels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        zeros = jnp.zeros(1)
        self.losses(Sequences(zeros, zeros, zeros, zeros, zeros[0]))  # checks the arguments

    def losses(self, policy: Sequences) -> jax.Array:
        """The loss of every pair [N]."""
        raise NotImplementedError

    def __call__(
        self, apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        policy = score(apply, params, batch, rng, self.side, self.chunk, self.reduce)
        rewards = preference.pair_metrics(policy.chosen, policy.rejected, beta=self.beta, weights_N=policy.weights)
        return combine(self.losses(policy), policy, rewards)


@dataclasses.dataclass(frozen=True)
class SimPO(ReferenceFree):
    """`reference_free.simpo` of log-probabilities per token."""

    beta: float = 2.0
    gamma: float = 1.0
    label_smoothing: float = 0.0

    def losses(self, policy: Sequences) -> jax.Array:
        return reference_free.simpo(
            policy.chosen, policy.rejected, beta=self.beta, gamma=self.gamma, label_smoothing=self.label_smoothing
        )


@dataclasses.dataclass(frozen=True)
class CPO(ReferenceFree):
    """`reference_free.cpo` of log-probabilities of answers; the likelihood of the chosen one is per token.

    TRL averages the likelihood over the tokens of a batch, here it is over those of each answer: so it does not depend on how a
    batch is split.
    """

    beta: float = 0.1
    alpha: float = 1.0
    label_smoothing: float = 0.0
    reduce: ClassVar[str] = "sum"

    def losses(self, policy: Sequences) -> jax.Array:
        return reference_free.cpo(
            policy.chosen,
            policy.rejected,
            policy.nll,
            beta=self.beta,
            alpha=self.alpha,
            label_smoothing=self.label_smoothing,
        )


@dataclasses.dataclass(frozen=True)
class ORPO(ReferenceFree):
    """`reference_free.orpo` of log-probabilities per token, as in the paper."""

    beta: float = 0.1

    def losses(self, policy: Sequences) -> jax.Array:
        return reference_free.orpo(policy.chosen, policy.rejected, policy.nll, beta=self.beta)
