"""Writes preference.json: values and gradients of preference losses by TRL, choix and slow formulas, all in float64.

Run by hand with `pip install trl==0.24.0 transformers==4.57.1 choix torch`; the tests only read the file. TRL's methods are
called on stand-ins for their trainers. Gradients are of the sum of losses times `mix`.

With an argument, TRL 1.x (`pip install trl==1.16.0`) writes preference_tokens.json instead: its DPO loss reads
log-probabilities of tokens.
"""

import collections
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import trl

N = 6
MIX = [0.3, -1.2, 0.7, 1.9, -0.4, 1.0]
ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, use_distributed=False)


def case(name, loss, inputs, options, wrt):
    """One call of the function `name` of ours: its arguments, its value and its gradients with respect to `wrt` by argument."""
    gradients = torch.autograd.grad((loss * torch.tensor(MIX[: len(loss)])).sum(), list(wrt.values()))
    inputs = {key: value.tolist() for key, value in inputs.items()}
    result = {"name": name, "inputs": inputs, "options": options, "loss": loss.tolist()}
    return result | {"gradients": {key: x.tolist() for key, x in zip(wrt, gradients, strict=True)}}


def leaf(array):
    return torch.tensor(array, requires_grad=True)


def pair_losses(rng):
    """TRL's DPO losses of policy and reference log-probabilities: ours are of their differences."""
    arrays = rng.normal(-30, 8, (4, N))
    arrays[2:] = arrays[:2] + rng.normal(0, 6, (2, N))
    for kind, beta, options in [
        *itertools.product(("sigmoid", "robust"), (0.1, 1.5), ({}, {"label_smoothing": 0.2})),
        *itertools.product(("exo_pair",), (0.1, 1.5), ({"label_smoothing": 1e-3}, {"label_smoothing": 0.2})),
        *itertools.product(("ipo", "hinge", "nca_pair", "apo_zero", "apo_down", "sppo_hard"), (0.1, 1.5), ({},)),
        *itertools.product(("discopop",), (0.1, 0.5), ({"tau": 0.05}, {"tau": 1.0})),
        *itertools.product(("aot_pair", "aot"), (0.1, 1.5), ({}, {"label_smoothing": 0.2})),
    ]:
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR,
            reference_free=False,
            f_divergence_type=trl.FDivergenceType.REVERSE_KL,
            beta=beta,
            label_smoothing=options.get("label_smoothing", 0.0),
            args=SimpleNamespace(discopop_tau=options.get("tau")),
        )
        chosen, rejected, *reference = leaf(arrays[0]), leaf(arrays[1]), *torch.tensor(arrays[2:])
        loss, *rewards = trl.DPOTrainer.dpo_loss(trainer, chosen, rejected, *reference, loss_type=kind)
        inputs = {"chosen_N": arrays[0] - arrays[2], "rejected_N": arrays[1] - arrays[3]}
        wrt = {"chosen_N": chosen, "rejected_N": rejected}
        if kind == "aot":  # of margins of the policy and of the reference
            inputs = {"chosen_N": arrays[0] - arrays[1], "rejected_N": arrays[2] - arrays[3]}
            wrt = {"chosen_N": chosen}
        name = {"aot": "aot", "aot_pair": "aot_unpaired"}.get(kind, kind)
        yield case(name, loss, inputs, {"beta": beta} | options, wrt) | {"rewards": [x.tolist() for x in rewards]}


def reference_free(rng):
    """TRL's CPO, SimPO and ORPO of log-probabilities of the policy; `chosen_nll_N` is added as TRL's trainers add theirs."""
    sums, means, nll = rng.normal(-20, 6, (2, N)), rng.uniform(-3, -0.01, (2, N)), rng.uniform(0.1, 3, N)
    for kind, options in [
        ("simpo", {"beta": 2.0, "gamma": 0.5}),
        ("simpo", {"beta": 10.0, "gamma": 5.0, "label_smoothing": 0.1}),
        ("cpo", {"beta": 0.1, "alpha": 1.0}),
        ("cpo", {"beta": 0.5, "alpha": 0.3, "label_smoothing": 0.1}),
        ("orpo", {"beta": 0.1}),
        ("orpo", {"beta": 1.0}),
    ]:
        arrays = sums if kind == "cpo" else means
        chosen, rejected, term = leaf(arrays[0]), leaf(arrays[1]), leaf(nll)
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR,
            alpha=0.0,
            beta=options["beta"],
            label_smoothing=options.get("label_smoothing", 0.0),
            loss_type={"cpo": "sigmoid"}.get(kind, kind),
            simpo_gamma=options.get("gamma"),
        )
        wrt = {"chosen_N": chosen, "rejected_N": rejected}
        if kind == "orpo":
            loss = term - trl.ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]
        else:
            loss = trl.CPOTrainer.cpo_loss(trainer, chosen, rejected)[0]
        if kind == "cpo":
            loss = loss + options["alpha"] * term
        if kind != "simpo":
            wrt["chosen_nll_N"] = term
        yield case(kind, loss, {key: x.detach() for key, x in wrt.items()}, options, wrt)


def unpaired(rng):
    """TRL's KTO and BCO, of 2 desirable rows and 4 others; KL is estimated from rows whose mean log-ratio has either sign."""
    policy, reference = rng.normal(-30, 8, N), rng.normal(-30, 8, N)
    flags = np.array([1, 1, 0, 0, 0, 0])
    for beta, shift, weights in [(0.1, 3.0, (1.0, 1.0)), (0.5, -3.0, (1.0, 1.0)), (0.1, 5.0, (1.33, 0.7))]:
        names = ("desirable_weight", "undesirable_weight")
        options = {"beta": beta} | dict(zip(names, weights, strict=True))
        trainer = SimpleNamespace(accelerator=ACCELERATOR, calculate_KL=True, loss_type="kto", **options)
        mismatched = rng.normal(shift, 2, N)
        rows, other = leaf(policy), torch.tensor(reference)
        loss, *_, kl = trl.KTOTrainer.kto_loss(
            trainer, rows[:2], rows[2:], torch.tensor(mismatched), other[:2], other[2:], torch.zeros(N).double()
        )
        inputs = {"log_ratios_N": policy - reference, "desirable_N": flags, "kl": kl}
        yield case("kto", loss, inputs, options, {"log_ratios_N": rows}) | {"mismatched": mismatched.tolist()}

    from trl.trainer.utils import RunningMoments

    moments = RunningMoments(accelerator=ACCELERATOR)
    for beta in (0.1, 0.5):  # the second mean is of both batches
        trainer = SimpleNamespace(running=moments, beta=beta, match_underlying_distribution=False)
        rows, other = leaf(policy), torch.tensor(reference)
        loss, *_, mean = trl.BCOTrainer.bco_loss(trainer, rows[:2], rows[2:], other[:2], other[2:], None, None)
        inputs = {"log_ratios_N": policy - reference, "desirable_N": flags, "shift": mean}
        yield case("bco", loss, inputs, {"beta": beta}, {"log_ratios_N": rows})


def rewards(rng):
    """TRL's reward model, pair by pair."""
    arrays, margins = rng.normal(0, 2, (2, N)), rng.uniform(0, 2, N)
    for margin, centering in itertools.product((None, margins), (0.0, 0.01)):
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR,
            args=SimpleNamespace(center_rewards_coefficient=centering),
            model=SimpleNamespace(training=False),
            _total_train_tokens=0,
            _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        )
        chosen, rejected, losses = leaf(arrays[0]), leaf(arrays[1]), []
        for n in range(N):
            logits = torch.stack([chosen[n], rejected[n]])[:, None]
            batch = {} if margin is None else {"margin": torch.tensor(margin[n : n + 1])}
            outputs = SimpleNamespace(logits=logits)
            losses.append(trl.RewardTrainer.compute_loss(trainer, lambda outputs=outputs, **_: outputs, batch))
        wrt = {"chosen_N": chosen, "rejected_N": rejected}
        inputs = {key: x.detach() for key, x in wrt.items()} | ({} if margin is None else {"margin_N": margin})
        yield case("bradley_terry", torch.stack(losses), inputs, {"centering": centering}, wrt)


def rankings(rng):
    """All pairs, pair by pair, with ties and padding; Plackett-Luce by drawing answer by answer, which choix confirms."""
    import choix

    values, mask = rng.normal(0, 2, (N, 4)), np.ones((N, 4), int)
    mask[1, 3], mask[2, :3], mask[3] = 0, 0, 0
    ranks = np.array([rng.permutation(4) for _ in range(N)])
    tied = ranks.copy()
    tied[0], tied[4] = [1, 0, 1, 2], [0, 0, 0, 0]
    for name, order in (("ranked_pairs", tied), ("plackett_luce", ranks)):
        rows, losses = leaf(values), []
        for n in range(N):
            kept = [k for k in np.argsort(order[n], kind="stable") if mask[n, k]]
            if name == "ranked_pairs":
                pairs = [(i, j) for i, j in itertools.combinations(kept, 2) if order[n, i] < order[n, j]]
                terms = [-torch.nn.functional.logsigmoid(rows[n, i] - rows[n, j]) for i, j in pairs]
                losses.append(sum(terms, rows[n, 0] * 0) / max(len(terms), 1))
                continue
            terms = [-torch.log_softmax(rows[n, kept[k:]], 0)[0] for k in range(len(kept))]
            losses.append(sum(terms, rows[n, 0] * 0))
            expected = -choix.log_likelihood_rankings([tuple(kept)], values[n]) if len(kept) > 1 else 0.0
            np.testing.assert_allclose(losses[-1].item(), expected, rtol=1e-12, atol=1e-12)
        inputs = {"rewards_NK": values, "ranks_NK": order, "mask_NK": mask}
        yield case(name, torch.stack(losses), inputs, {}, {"rewards_NK": rows})


def token_logps(rng):
    """Log-probabilities of labels, their sums and means by TRL, and the mean over tokens of the batch by torch."""
    logits = torch.tensor(rng.normal(0, 2, (4, 6, 5)))
    labels = torch.tensor(rng.integers(0, 5, (4, 6)))
    labels[:, 0] = labels[0, 1:3] = labels[1, 4:] = labels[2, 2:] = -100
    by_trl = {
        name: trl.CPOTrainer.get_batch_logps(logits, labels.clone(), average_log_prob=name == "mean").tolist()
        for name in ("sum", "mean")
    }
    mean = torch.nn.CrossEntropyLoss()(logits[:, :-1].reshape(-1, 5), labels[:, 1:].reshape(-1))
    chosen = labels[:, 1:].clamp(min=0)[..., None]
    logps = torch.log_softmax(logits[:, :-1], -1).gather(-1, chosen)[..., 0]
    return by_trl | {
        "logps_NL": logps.tolist(),
        "mask_NL": (labels[:, 1:] >= 0).int().tolist(),
        "token_mean": -mean.item(),
    }


def token_losses(rng):
    """TRL 1.x's DPO losses of log-probabilities of tokens, averaged over pairs: their values, and gradients by token."""
    policy, mask = rng.normal(-2, 1, (8, 5)), np.arange(5) < rng.integers(1, 6, (8, 1))
    reference = policy + rng.normal(0, 1, (8, 5))
    kinds = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop")
    smoothed = dict.fromkeys(kinds, 0.0) | dict.fromkeys(("robust", "exo_pair", "aot_unpaired"), 0.2)
    others = {"entropy": torch.zeros(8, 5), "mean_logits": torch.zeros(8, 5), "is_top1": torch.zeros(8, 5).bool()}
    cases = []
    for kind, smoothing in smoothed.items():
        logps = leaf(policy)
        # The fused head of TRL gives 0 for tokens without a label.
        model, frozen = (
            lambda x=x, **_: SimpleNamespace(log_probs=x * torch.tensor(mask), **others)
            for x in (logps, torch.tensor(reference))
        )
        trainer = SimpleNamespace(
            accelerator=ACCELERATOR,
            model=SimpleNamespace(training=False, is_gradient_checkpointing=False),
            ref_model=frozen,
            aux_loss_enabled=False,
            ld_alpha=None,
            precompute_ref_logps=False,
            f_divergence_type="reverse_kl",
            loss_types=[kind],
            loss_weights=[1.0],
            beta=0.3,
            label_smoothing=smoothing,
            use_weighting=False,
            args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
            _total_train_tokens=0,
            _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        )
        completion = torch.cat([torch.zeros(8, 1), torch.tensor(mask)], 1).int()
        batch = {"input_ids": torch.zeros(8, 6).long(), "completion_mask": completion}
        loss = trl.DPOTrainer._compute_loss(trainer, model, batch | {"attention_mask": torch.ones(8, 6)}, False)
        (gradient,) = torch.autograd.grad(loss, logps)
        rewards = {key: x[0] for key, x in trainer._metrics["eval"].items() if key.startswith("rewards/")}
        cases.append(
            {"loss_type": kind, "label_smoothing": smoothing, "loss": loss.item(), "gradient": gradient.tolist()}
        )
    arrays = {"policy_NL": policy.tolist(), "reference_NL": reference.tolist(), "mask_NL": mask.astype(int).tolist()}
    return arrays | {"beta": 0.3, "rewards": rewards, "cases": cases}


def main(by_token):
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    found = {"trl": trl.__version__}
    if by_token:
        found |= token_losses(rng)
    else:
        parts = (pair_losses, reference_free, unpaired, rewards, rankings)
        found |= {"mix": MIX, "cases": [one for part in parts for one in part(rng)], "tokens": token_logps(rng)}
    name = "preference_tokens.json" if by_token else "preference.json"
    Path(__file__).with_name(name).write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(name, found["trl"], len(found["cases"]))


if __name__ == "__main__":
    main(by_token=len(sys.argv) > 1)
