"""Scaling-law fits: seconds for 4500 starts and 2000 bootstraps, distance from scipy's optimum, and coverage of intervals.

The table is synthetic, shaped like the runs of Hoffmann et al. 2022 that Besiroglu et al. 2024 read off a plot: 240 runs, 44M
to 16B parameters, 6e18 to 3e21 FLOPs, with the refit's constants and 1% noise. scipy minimises the same objective by BFGS from
the same grid, one start after another; its time for all 4500 is extrapolated from some of them. Bootstrap standard errors are
compared with scipy's over its own resamples. Coverage is measured over synthetic tables: how often 95% intervals contain a new
run, and each planted constant.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import optimize

import report
from t5x_like.scaling.laws import fit, solver
from t5x_like.scaling.laws.laws import CHINCHILLA
from t5x_like.scaling.laws.table import Table

PLANTED = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
THETA = CHINCHILLA.theta(PLANTED)


def published(seed: int) -> tuple[dict, float, dict]:
    """Returns (inputs, noise, a run to predict): 240 runs over the ranges of the paper, and Chinchilla itself."""
    generator = np.random.default_rng(seed)
    n, c = 10 ** generator.uniform(np.log10(44e6), np.log10(16e9), 240), 10 ** generator.uniform(18.78, 21.48, 240)
    return {"n_params": n, "tokens": c / 6 / n}, 0.01, {"n_params": [7e10], "tokens": [1.4e12]}


def ladder(seed: int) -> tuple[dict, float, dict]:
    """Returns four budgets of five sizes, and a run with ten times the compute of the largest."""
    flops = np.repeat(np.geomspace(1e17, 3e18, 4), 5)
    n = np.sqrt(flops / 120) * np.tile(np.geomspace(0.35, 2.8, 5), 4)
    large = np.sqrt(3e19 / 120)
    return {"n_params": n, "tokens": flops / 6 / n}, 0.004, {"n_params": [large], "tokens": [20 * large]}


def planted_table(columns: dict, noise: float, seed: int) -> Table:
    """Returns runs of the planted law, with noise."""
    clean = CHINCHILLA.predict(THETA, columns)[0]
    return Table(columns | {"loss": clean * np.exp(np.random.default_rng(seed).normal(0, noise, len(clean)))})


def objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
    """Returns (Huber's sum over delta, its gradient), in NumPy."""
    terms = np.stack([np.full(len(y), theta[0]), theta[1] - theta[3] * x[:, 0], theta[2] - theta[4] * x[:, 1]])
    top = terms.max(0)
    parts = np.exp(terms - top)
    residual, parts = top + np.log(parts.sum(0)) - y, parts / parts.sum(0)
    size, slope = np.abs(residual), np.clip(residual, -delta, delta)
    gradient = [*(parts @ slope), -(slope * parts[1]) @ x[:, 0], -(slope * parts[2]) @ x[:, 1]]
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum() / delta, np.array(gradient) / delta


def fit_with_scipy(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, delta: float, shrink: bool = True
) -> tuple[np.ndarray, float]:
    """Runs scipy's BFGS; `shrink` narrows Huber's width in steps, with restarts, to converge to full precision."""
    widths = [*(w for w in 1e-2 * 3.0 ** -np.arange(40.0) if w > delta), delta] if shrink else [delta]
    for width in widths:
        for _ in range(3 if shrink else 1):
            result = optimize.minimize(objective, theta, (x, y, width), "BFGS", jac=True, options={"gtol": 1e-10})
            theta = result.x
    return theta, result.fun * delta


def measure_speed(rows: Table, rounds: int) -> dict:
    """Times the starts and the bootstraps, after one call that compiles."""
    x, y = CHINCHILLA.features(rows), CHINCHILLA.targets(rows)
    certificates = []

    def run_ours() -> None:
        generator = np.random.default_rng(0)
        theta, certificate = fit.find_optimum(CHINCHILLA, solver.HUBER, x, y, None, generator)
        certificates.append(certificate)
        fit.bootstrap(CHINCHILLA, solver.HUBER, theta, x, y, 2000, generator)

    starts = CHINCHILLA.grid(x, y)[:: 4500 // 30]
    sides = {
        "4500 starts + 2000 bootstraps": run_ours,
        "scipy BFGS, 30 starts": lambda: [fit_with_scipy(each, x, y, 1e-3, shrink=False) for each in starts],
    }
    begin = time.perf_counter()
    run_ours()
    first = time.perf_counter() - begin
    seconds = report.time_interleaved(sides, rounds, warmup=0)
    for name, timed in seconds.items():
        print(
            f"{name:<32}{min(w for w, _ in timed):8.2f} s wall {min(c for _, c in timed):8.2f} s CPU (best of {rounds})"
        )
    print(f"{'with compilation':<32}{first:8.2f} s wall")
    best = {name: min(w for w, _ in timed) for name, timed in seconds.items()}
    scipy = best["scipy BFGS, 30 starts"] / len(starts) * 6500
    print(f"{'scipy, all 6500 fits':<32}{scipy:8.0f} s, extrapolated from {len(starts)}")
    print(f"certificate: {certificates[-1].share:.1%} of the starts in the best basin\n")
    return {"seconds": best["4500 starts + 2000 bootstraps"], "first_seconds": first, "scipy_seconds": scipy}


def compare_optima(rows: Table) -> dict:
    """Measures the largest relative difference of a constant from scipy's, for both objectives."""
    x, y, gaps = CHINCHILLA.features(rows), CHINCHILLA.targets(rows), {}
    for name, chosen in (("huber", solver.HUBER), ("l1", solver.L1)):
        ours, certificate = fit.find_optimum(CHINCHILLA, chosen, x, y, None, np.random.default_rng(0))
        theirs, lowest = min(
            (fit_with_scipy(THETA * s, x, y, chosen.delta) for s in (0.95, 1.0, 1.05)), key=lambda it: it[1]
        )
        gaps[name] = float(np.max(np.abs(CHINCHILLA.values(ours) / CHINCHILLA.values(theirs) - 1)))
        value = certificate.objective / (lowest / chosen.divisor) - 1
        print(f"{name:<6} constants within {gaps[name]:.1e} of scipy's, objective {value:+.1e} relative")
    print()
    return {"optimum_gap": gaps}


def compare_standard_errors(rows: Table, resamples: int) -> dict:
    """Returns our standard errors over scipy's, each with its own resamples."""
    x, y = CHINCHILLA.features(rows), CHINCHILLA.targets(rows)
    result = fit.fit(rows, CHINCHILLA)
    generator = np.random.default_rng(99)
    sampled = generator.integers(0, len(y), (resamples, len(y)))
    brute = CHINCHILLA.values(
        np.array([fit_with_scipy(result.theta, x[indices], y[indices], 1e-3)[0] for indices in sampled])
    )
    ratio = {
        name: it.standard_error / s
        for (name, it), s in zip(result.parameters.items(), brute.std(0, ddof=1), strict=True)
    }
    print(f"standard errors (2000 resamples) over brute force ({resamples} resamples): {format_numbers(ratio)}\n")
    return {"standard_error_ratio": ratio}


def measure_coverage(design: Callable[[int], tuple[dict, float, dict]], tables: int) -> dict:
    """Measures how often 95% intervals contain a new run and the planted constants."""
    runs, constants = [], []
    for seed in range(tables):
        columns, noise, new = design(seed)
        result = fit.fit(planted_table(columns, noise, 1000 + seed), CHINCHILLA, starts=64, bootstraps=1000, seed=seed)
        actual = CHINCHILLA.predict(THETA, new)[0, 0] * np.exp(np.random.default_rng(5000 + seed).normal(0, noise))
        prediction = result.predict(new)
        runs.append(prediction.low[0] <= actual <= prediction.high[0])
        constants.append([it.low <= PLANTED[name] <= it.high for name, it in result.parameters.items()])
    each = dict(zip(PLANTED, np.mean(constants, axis=0).tolist(), strict=True))
    coverage = f"a new run {np.mean(runs):.1%} ({result.bootstrap}), constants {format_numbers(each)}"
    print(f"{design.__name__:<10} {tables} tables: {coverage}", flush=True)
    return {"run": float(np.mean(runs)), **each}


def format_numbers(numbers: dict[str, float]) -> str:
    """Formats numbers by name."""
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the timing (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of brute force (default: %(default)s)")
    parser.add_argument("--tables", type=int, default=200, help="tables for coverage (default: %(default)s)")
    args = parser.parse_args()
    columns, noise, _ = published(0)
    rows = planted_table(columns, noise, 0)
    print(report.describe_machine() + "\n")
    facts = measure_speed(rows, args.rounds) | compare_optima(rows) | compare_standard_errors(rows, args.resamples)
    facts["coverage"] = {design.__name__: measure_coverage(design, args.tables) for design in (published, ladder)}
    report.print_json(**facts)


if __name__ == "__main__":
    main()
