"""Draw docs/kept.png, the kept tokens of one image under four selectors: `python docs/draw_kept.py`."""

import tempfile
from pathlib import Path

from zoo_exp.cli import main
from zoo_exp.embedded.world2.rows import rows_2

FILE = Path(__file__).parent / "kept.png"
ARMS = "selector=[full,uniform_grid,divprune,zoo_diagonal]"
NUMBER = 2
"""The first question of the embedded GQA on which the responses of these arms differ."""

if __name__ == "__main__":
    sample = rows_2("gqa", limit=NUMBER + 1)[NUMBER]
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.png"
        sample["image"].save(scene)
        main(["ask", str(scene), sample["question"], ARMS, "budget=16", f"out={folder}", "--png", str(FILE)])
