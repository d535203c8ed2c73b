"""Code blocks of the documentation: what each is, whether it is run, and how a command line is made small.

A comment directly above a block says what the page itself need not show:

    <!-- not run: GPU -->                the block is checked without running it, for one of `REASONS`
    <!-- file: my_configs/exp/a.yaml --> the block is the content of a file that later blocks read
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "slurm" / "README.md"]
REASONS = {
    "GPU": "a published checkpoint, too large for a CPU",
    "SLURM": "a cluster",
    "W&B": "another package, or an account",
    "hub": "a checkpoint or a data set of the hub",
    "installs": "changes the environment",
    "minutes": "takes longer than a test may",
    "hours": "takes hours",
    "one process per point": "a sweep starts processes",
    "server": "runs until it is stopped",
    "your files": "files that only a reader has",
    "another test": "a test of its own runs it",
    "fragment": "part of something larger",
}
MARK = re.compile(r"<!-- (?P<kind>not run|file): (?P<value>[^>]+?) -->\s*$")
SHELL = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: its page.
        line: line number of the block, from 1.
        language: the info string; empty for indented blocks, which are command lines.
        text: its content.
        reason: why it is not run; empty if it is.
        file: name of the file that it is.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""
    file: str = ""

    @property
    def name(self):
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self):
        """Command lines of a shell block as words, without comments; loops are cut into their commands."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(re.sub(r"^\s*(do|\.)\s", "", line), comments=True) for line in lines]
        return [line for line in words if line and line[0] not in ("for", "done")]


def blocks_of(page):
    """The blocks of a page in their order; directives of the site are left out."""
    found, mark = [], None
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.strip()
            if not language.startswith("{"):
                kind, value = mark or ("", "")
                given = {"reason": value} if kind == "not run" else {"file": value} if kind else {}
                found.append(Block(page, token.map[0] + 1, language, token.content, **given))
        if token.type == "html_block":
            match = MARK.search(token.content)
            mark = (match["kind"], match["value"]) if match else None
        elif token.nesting == 0:
            mark = None
    return found


def small(words):
    """Overrides of a command with one question per task, and without W&B."""
    if words[0] not in ("run", "bench", "tokens", "ask"):
        return words
    own = {"ask": [], "bench": ["logger=none"]}.get(words[0], ["limit=1", "logger=none"])
    return [word for word in words if not re.match(r"limit=|logger=", word)] + own
