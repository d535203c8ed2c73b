"""What a page's source becomes before it is read: tables of results, other files, and links that leave docs/.

Pages are Markdown that also reads well in the repository. Comments are replaced while the site is built:

    <!-- table: experiments/NAME/results.csv columns=arm,kept,retained --> ... <!-- end of table -->
    <!-- include: ../CHANGELOG.md --> ... <!-- end of include -->
    <!-- reference of the command line --> ... <!-- end of reference -->

The first is the block of `zoo_exp/report/readme.py`, here with paths from the top of the repository. What stands
between the comments is read in the repository: the numbers that `benchmarks/advice.py --write` puts there, which a test
compares with the results, or where the text is.
"""

import re
from pathlib import Path, PurePosixPath

from zoo_exp.report.readme import fill

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
STUDIES = DOCS / "studies"
INCLUDE = re.compile(
    r"^<!-- include: (?P<path>\S+) -->\n.*?^<!-- end of include -->$", re.DOTALL | re.MULTILINE
)
COMMAND_LINE = re.compile(r"<!-- reference of the command line -->\n.*?<!-- end of reference -->", re.DOTALL)
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>[^\]\n]*(?:\n[^\]\n]*)?)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)"
)
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "experiments/README.md": "studies/index.md",
    "slurm/README.md": "slurm.md",
}
"""Files of the repository that are pages of the site; `experiments/NAME/README.md` is `studies/NAME.md`."""


def page_of(path: str) -> str | None:
    """The page of the site, relative to docs/, that shows a file of the repository.

    >>> page_of("experiments/sanity/README.md"), page_of("docs/models.md"), page_of("tests/conftest.py")
    ('studies/sanity.md', 'models.md', None)
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    study = re.fullmatch(r"experiments/(\w+)/README\.md", path)
    return f"studies/{study[1]}.md" if study else PAGES.get(path)


def relinked(text: str, written_at: str, shown_at: str) -> str:
    """Markdown of one place in the repository as part of a page in docs/.

    Links to files that the site shows become links to its pages, images keep their files, and links to other files of
    the repository become their text.

    Args:
        text: Markdown.
        written_at: path of its file from the top of the repository.
        shown_at: path of the page from docs/.
    """

    def link(found: re.Match[str]) -> str:
        target, anchor = found["target"], found["anchor"] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = _normal(PurePosixPath(written_at).parent / target)
        if found["image"]:
            return f"![{found['text']}]({_from(f'docs/{shown_at}', path)})"
        page = page_of(path)
        if page is None:
            return found["text"] if "`" in found["text"] else f"{found['text']} (`{path}`)"
        return f"[{found['text']}]({_from(shown_at, page)}{anchor})"

    # Code blocks and code spans are no place for links.
    parts = re.split(r"(^```[\s\S]*?^```$|^ {4}.*$|`[^`\n]+`(?!\]))", text, flags=re.MULTILINE)
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def prepared(text: str, page: str) -> str:
    """The source of a page with its comments replaced and its links inside of the site.

    Args:
        text: the file's text.
        page: its path from docs/.
    """
    if page.startswith("studies/"):
        return text  # written by `write_studies`
    text = relinked(fill(text, ROOT), f"docs/{page}", page)
    text = INCLUDE.sub(lambda found: _included(found["path"], page), text)
    if COMMAND_LINE.search(text):
        from command_line import reference

        text = COMMAND_LINE.sub(lambda _: reference(), text)
    return text


def write_studies() -> None:
    """Write docs/studies: one page per README of experiments/ (git ignores the folder)."""
    STUDIES.mkdir(exist_ok=True)
    wanted = {}
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        page = f"studies/{readme.parent.name}.md"
        wanted[page] = _text(readme, page)
    top = _text(ROOT / "experiments" / "README.md", "studies/index.md")
    names = [page.removeprefix("studies/").removesuffix(".md") for page in wanted]
    wanted["studies/index.md"] = "\n".join([top, "", "```{toctree}", ":hidden:", "", *names, "```", ""])
    for old in STUDIES.glob("*.md"):
        if f"studies/{old.name}" not in wanted:
            old.unlink()
    for page, text in wanted.items():
        path = DOCS / page
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _text(path: Path, page: str) -> str:
    return relinked(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix(), page)


def _included(target: str, page: str) -> str:
    return _text((DOCS / PurePosixPath(page).parent / target).resolve(), page)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _from(page: str, target: str) -> str:
    """A path relative to the folder of a page.

    >>> _from("studies/sanity.md", "statistics.md"), _from("a.md", "studies/b.md")
    ('../statistics.md', 'studies/b.md')
    """
    return "../" * (len(PurePosixPath(page).parts) - 1) + target
