"""The figures of a report: each function draws on a matplotlib figure, or raises MissingData with a sentence for the reader.

They use the object interface on the Agg canvas: no display, no global state.
"""

import io
import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from t5x_like.scaling.laws import checks, identifiability, optima
from t5x_like.scaling.laws.fit import Fit
from t5x_like.scaling.planning import plan
from t5x_like.scaling.reports.report import Report, TrackedTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS = {"n_params": "parameters N", "tokens": "tokens D", "flops_6nd": "training compute C (FLOPs)"}
ACCENT, SECOND, MUTED = "#c2410c", "#1d4ed8", "#64748b"
SIZE, DPI = (7.0, 4.4), 130


class MissingData(Exception):
    """The table or the law lacks the data of a figure; the message is a sentence for the reader."""


def render_png(draw: "Callable[[Report, Figure], None]", report: Report) -> bytes:
    """Draws a figure and returns it as a PNG file.

    Raises:
      MissingData: the report lacks the data of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    draw(report, figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def axis_label(name: str) -> str:
    """Returns the label of a column."""
    return COUNTS.get(name, "loss (nats per token)" if name == "loss" else name)


def escape_label(name: str) -> str:
    """Returns the label of a column, escaped so that matplotlib does not parse it as mathematics."""
    return axis_label(name).replace("$", r"\$")


def draw_isoflop(report: Report, figure: "Figure") -> None:
    """Draws the loss over N for every budget, with its parabola and minimum."""
    target = report.fit.law.target
    table = checks.keep_best_tuned(
        checks.keep_last_rows(optima.select_finished(require_columns(report.rows, "n_params", "flops_6nd"), target)),
        target,
    )
    groups = optima.group_rows(np.log(table["flops_6nd"])[:, None])
    groups = [rows for rows in groups if len(np.unique(np.log(table["n_params"][rows]).round(6))) >= optima.MIN_POINTS]
    if not groups:
        raise MissingData(
            f"No budget has {optima.MIN_POINTS} different sizes, which a parabola needs. Train runs at equal compute."
        )
    axes, colors = figure.subplots(), rank_colors(len(groups))
    for rows, color in zip(groups, colors, strict=True):
        x, y = np.log(table["n_params"][rows]), table[target][rows]
        budget = np.exp(np.log(table["flops_6nd"][rows]).mean())
        axes.plot(np.exp(x), y, "o", ms=4, color=color, label=f"{budget:.2g} FLOPs")
        fine, centre = np.linspace(x.min(), x.max(), 100), x.mean()
        axes.plot(np.exp(fine), np.polyval(np.polyfit(x - centre, y, 2), fine - centre), color=color, lw=1.2)
        best, problem = optima.find_minimum(x, y, "model size")
        if not problem:
            axes.plot(np.exp(best[0]), best[1], "*", ms=13, color=color, mec="black", mew=0.7, zorder=5)
    axes.set(xscale="log", xlabel=axis_label("n_params"), ylabel=escape_label(target))
    axes.legend(fontsize=8, frameon=False, ncols=2, title="budget (star: minimum inside its range)", title_fontsize=8)


def draw_contours(report: Report, figure: "Figure") -> None:
    """Draws lines of equal fitted loss over D and N, the runs, and the compute-optimal line."""
    fit, table = report.fit, report.used
    if set(fit.law.inputs) != {"n_params", "tokens"}:
        raise MissingData(f"The law {fit.law.name} is not one of N and D alone.")
    n, d = (geometric_grid(table[name], 1.6, 60) for name in ("n_params", "tokens"))
    d_GG, n_GG = np.meshgrid(d, n)
    loss = fit.predict({"n_params": n_GG.ravel(), "tokens": d_GG.ravel()}).value.reshape(n_GG.shape)
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlim=(d[0], d[-1]), ylim=(n[0], n[-1]))
    levels = np.unique(np.quantile(loss, np.linspace(0.02, 0.95, 12)))
    lines = axes.contour(d, n, loss, levels=levels, cmap="viridis", linewidths=1)
    axes.clabel(lines, fontsize=7, fmt="%.3g")
    axes.plot(table["tokens"], table["n_params"], "o", ms=4, color=MUTED, label="runs")
    budgets = geometric_grid(6 * table["n_params"] * table["tokens"], 1.6, 30)
    best = np.array([optimal_size(fit, c) for c in budgets])
    axes.plot(budgets / (6 * best), best, color=ACCENT, lw=2, label="compute-optimal")
    axes.set(xlabel=axis_label("tokens"), ylabel=axis_label("n_params"))
    axes.legend(fontsize=8, frameon=True, loc="best")


def optimal_size(fit: Fit, flops: float) -> float:
    """Returns the compute-optimal N of a budget."""
    return float(plan.find_optimal_size(fit.law, fit.theta[None], plan.Budget(float(flops)))[0])


def draw_envelope(report: Report, figure: "Figure") -> None:
    """Draws losses over compute, as training curves if runs have several rows, and the lowest loss so far."""
    law = report.fit.law
    table = optima.select_finished(require_columns(report.rows, "flops_6nd"), law.target)
    compute, loss = table["flops_6nd"], table[law.target]
    axes = figure.subplots()
    names = table["run_id"] if "run_id" in table else np.arange(len(table))
    curves = [np.flatnonzero(names == name) for name in np.unique(names)]
    for rows in curves:
        rows = rows[np.argsort(compute[rows])]
        axes.plot(
            compute[rows], loss[rows], "-o" if len(rows) > 1 else "o", ms=3, lw=0.8, color=MUTED, alpha=0.8, zorder=3
        )
    order = np.argsort(compute)
    axes.step(
        compute[order], np.minimum.accumulate(loss[order]), where="post", color=SECOND, lw=1.8, label="lowest so far"
    )
    if set(law.inputs) == {"n_params", "tokens"}:
        budgets = geometric_grid(compute, 1.0, 30)
        best = np.array([optimal_size(report.fit, c) for c in budgets])
        at = {"n_params": best, "tokens": budgets / (6 * best)}
        axes.plot(budgets, report.fit.predict(at).value, "--", color=ACCENT, lw=1.5, label="law, compute-optimal")
    axes.set(xscale="log", xlabel=axis_label("flops_6nd"), ylabel=escape_label(law.target))
    axes.legend(fontsize=8, frameon=False)


def draw_profile(report: Report, figure: "Figure") -> None:
    """Draws the profile of E: the rise of the objective with E held fixed, the significance limit, and the interval."""
    fit = report.fit
    law, theta = fit.law, fit.theta
    if "E" not in law.parameters:
        raise MissingData(f"The law {law.name} has no irreducible loss E.")
    i = law.parameters.index("E")
    features, targets = law.features(report.used), law.targets(report.used)
    rise = identifiability.profile_parameters(law, fit.objective, theta, features, targets)[i] ** 2
    offsets = np.concatenate([-identifiability.OFFSETS[::-1], [0.0], identifiability.OFFSETS])
    at = np.exp(theta[i] + offsets) if "E" in law.positive else theta[i] + offsets
    rise = np.concatenate([rise[0, ::-1], [0.0], rise[1]])
    limit = statistics.NormalDist().inv_cdf((1 + fit.level) / 2) ** 2
    near = rise <= 12 * limit
    axes = figure.subplots()
    axes.plot(at[near], rise[near], "-o", ms=4, color=SECOND, label="profile")
    axes.axhline(limit, color=MUTED, lw=1, ls="--", label=f"{100 * fit.level:g}% limit")
    estimate = fit.parameters["E"]
    axes.axvspan(estimate.low, estimate.high, color=ACCENT, alpha=0.15, label="bootstrap interval")
    axes.axvline(estimate.value, color=ACCENT, lw=1.2)
    axes.set(xlabel=f"E, irreducible {escape_label(law.target)}", ylabel="likelihood-ratio statistic")
    axes.set_xlim(min(at[near].min(), estimate.low), max(at[near].max(), estimate.high))
    axes.legend(fontsize=8, frameon=False)


def draw_residuals(report: Report, figure: "Figure") -> None:
    """Draws the residual of every run over compute and size."""
    fit, table = report.fit, report.used
    names = [name for name in ("flops_6nd", "n_params") if name in table] or [fit.law.inputs[0]]
    scale, unit = (100, "% of the target") if fit.law.log_target else (1, fit.law.target)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axhline(0, color=MUTED, lw=1)
        axes.plot(table[name], scale * fit.residuals, "o", ms=4, color=SECOND, alpha=0.8)
        axes.set(xscale="log", xlabel=escape_label(name))
    panels[0].set_ylabel(f"measured minus fitted ({unit})".replace("$", r"\$"))


def draw_forecasts(report: Report, figure: "Figure") -> None:
    """Draws every registered forecast with its interval, and the actual results."""
    if not report.outcomes:
        raise MissingData("No forecast was given. Pass forecasts of t5x_like register with --forecast.")
    axes = figure.subplots()
    for row, each in enumerate(report.outcomes):
        it = each.forecast
        axes.plot([it.low, it.high], [row, row], color=SECOND, lw=5, alpha=0.35, label="" if row else "interval")
        axes.plot(it.value, row, "|", ms=16, mew=2, color=SECOND, label="" if row else "forecast")
        if each.actual is not None:
            axes.plot(each.actual, row, "o", color=ACCENT, label="actual")
    axes.set(yticks=range(len(report.outcomes)), ylim=(-0.7, len(report.outcomes) - 0.3))
    axes.set_yticklabels([f"{i + 1}" for i in range(len(report.outcomes))])
    axes.set(xlabel=escape_label(report.outcomes[0].forecast.target), ylabel="forecast")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        *zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True), fontsize=8
    )


def require_columns(table: TrackedTable, *names: str) -> TrackedTable:
    """Returns the table; raises MissingData if it lacks one of these columns."""
    if missing := [name for name in names if name not in table]:
        raise MissingData(f"The table has no column {', '.join(missing)}.")
    return table


def geometric_grid(values: np.ndarray, beyond: float, count: int) -> np.ndarray:
    """Returns points at equal ratios, from a factor `beyond` below the values to the same factor above."""
    return np.geomspace(values.min() / beyond, values.max() * beyond, count)


def rank_colors(count: int) -> list[tuple[float, ...]]:
    """Returns colors from dark to light."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.88, count)]


FIGURES: "Mapping[str, tuple[str, str, Callable[[Report, Figure], None]]]" = {  # name -> (title, caption, draw)
    "isoflop": (
        "IsoFLOP curves",
        "Loss by model size at equal compute. A budget whose lowest loss is at the edge of its sizes has no star.",
        draw_isoflop,
    ),
    "contours": (
        "Fitted loss over N and D",
        "Lines of equal loss of the law, the runs it was fitted to, and the compute-optimal N and D.",
        draw_contours,
    ),
    "envelope": (
        "Envelope of losses by compute",
        "Every run, with its training curve if the table has one. The law's line covers the range of the runs.",
        draw_envelope,
    ),
    "profile": (
        "Profile of E",
        "E is held at each value and the other parameters are refitted. Values below the dashed line are within the interval; "
        "a side that never rises above it is open.",
        draw_profile,
    ),
    "residuals": (
        "Residuals",
        "Measured minus fitted. A trend over compute or size is an error of the law, not noise.",
        draw_residuals,
    ),
    "forecasts": (
        "Forecast and actual",
        "Forecasts registered before a run, with their intervals, and the finished runs at the same inputs.",
        draw_forecasts,
    ),
}
