"""What `ask` shows: a table of the panels, and a figure of the kept tokens."""

from collections.abc import Sequence
from pathlib import Path

from zoo_exp.report.gallery import draw_gallery
from zoo_exp.report.mask_items import MaskArm, MaskItem
from zoo_exp.report.tabular import Cell, Column, Table, build, text, value
from zoo_exp.workbench.questioner import Looked, Panel

RESPONSE_LINES = 5
"""Most lines of a response in the figure; the table has it whole."""
NOTES = (
    "Times are those of one question on this machine; python -m zoo_exp bench measures with repetitions.",
    "kept: visual tokens that enter the language model; layer mean: over its layers, for layer selectors.",
)


def panel_table(looked: Looked, panels: Sequence[Panel], model: str) -> Table:
    """One row per arm: tokens, times, response."""
    lines = [
        {
            "arm": panel.arm,
            "kept": None if panel.problem else panel.kept,
            "layers": panel.layer_tokens,
            "select": panel.select_ms,
            "generate": panel.generate_ms,
            "response": f"(not applicable: {panel.problem})"
            if panel.problem
            else panel.response or "(empty)",
        }
        for panel in panels
    ]
    columns = [
        Column("Arm", text("arm"), left=True),
        Column("kept", value("kept", 0)),
        Column("layer mean", value("layers"), needs="layers"),
        Column("selector", value("select", 2), unit="ms"),
        Column("prefill + decode", value("generate"), unit="ms"),
        Column("response", lambda line: Cell(str(line["response"])), left=True),
    ]
    caption = f"{model}: {looked.n_visual} visual tokens, vision encoder {looked.vision_ms:.1f} ms (once for all arms)."
    return build(
        "ask", looked.question, columns, lines, caption=caption, notes=NOTES if _layers(panels) else NOTES[:1]
    )


def draw_panels(looked: Looked, panels: Sequence[Panel], model: str, path: Path) -> bool:
    """Write the figure, one image per arm beside each other; False where nothing can be drawn."""
    drawn = [panel for panel in panels if panel.cells is not None and not panel.problem]
    if looked.view is None or not drawn:
        return False
    arms = tuple(MaskArm(p.arm, p.cells or (), p.response or "", None) for p in drawn)
    item = MaskItem(model, "", looked.question, "", looked.view.grid, looked.view.image, arms)
    longest = max(len(panel.response or "") for panel in drawn)
    caption = f"{looked.n_visual} visual tokens; kept ones are bright, with their number."
    if _layers(drawn):
        caption += " For layer selectors, the tokens that reach the last decoder layer are shown."
    draw_gallery([item], path, caption, lines=min(RESPONSE_LINES, 1 + longest // 22))
    return True


def _layers(panels: Sequence[Panel]) -> bool:
    return any(panel.layer_tokens is not None for panel in panels)
