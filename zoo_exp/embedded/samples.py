"""A picture of the embedded world: held-out scenes with a question of each family."""

from pathlib import Path

from zoo_exp.embedded.benchmarks import asked, held_out_scene
from zoo_exp.embedded.questions import FAMILIES


def draw_samples(path: Path, split: str = "test", per_family: int = 3) -> None:
    """Save a figure with one row per family.

    Args:
        path: the picture; its ending decides the format.
        split: validation or test.
        per_family: scenes per row.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(FAMILIES),
        per_family,
        figsize=(3.6 * per_family, 1.45 * len(FAMILIES)),
        squeeze=False,
        layout="constrained",
    )
    for row, family in zip(axes, FAMILIES, strict=True):
        chosen = {}
        for index, _, question in asked(family, split):
            chosen.setdefault(index, question)
            if len(chosen) == per_family:
                break
        for axis, (index, question) in zip(row, chosen.items(), strict=True):
            axis.imshow(held_out_scene(split, index).pixels, extent=(0, 1, 0, 1))
            axis.text(1.06, 1.0, question.prompt, va="top", fontsize=7.5, wrap=True)
            axis.text(1.06, 0.0, f"answer: {question.answer}", va="bottom", fontsize=8, weight="bold")
            axis.set_xlim(0, 2.4)
            axis.axis("off")
        row[0].set_title(family, loc="left", fontsize=10, weight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
