"""The long description: README.md as a package index can show it. All else: pyproject.toml.

A relative link means nothing there. `DETKIT_SOURCE`, the address of the repository, which the
workflow that publishes knows, makes the links and the picture absolute, at the tag of this
version. Without it (the address is nowhere written down) they become plain text.
"""

import os
import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)]+)\)")


def long_description(readme: str, source: str, tag: str) -> str:
    """Return the text with its relative links made absolute, or without them where no source."""

    def absolute(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        if source:
            return f"{mark}[{text}]({source}/{'raw' if mark else 'blob'}/{tag}/{target})"
        return "" if mark else text

    blocks = re.split(r"(^```.*?^```$)", readme, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        block if block.startswith("```") else LINK.sub(absolute, block) for block in blocks
    )


def main() -> None:
    """Hand setuptools what depends on the address of the source."""
    source = os.environ.get("DETKIT_SOURCE", "").rstrip("/")
    init = (HERE / "detkit" / "__init__.py").read_text(encoding="utf-8")
    version = re.findall(r'^__version__ = "(.+)"$', init, flags=re.MULTILINE)[0]
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    if source:
        readme = readme.replace("git clone ADDRESS", f"git clone {source}")
    setup(
        long_description=long_description(readme, source, f"v{version}"),
        long_description_content_type="text/markdown",
        project_urls={
            "Source": source,
            "Changelog": f"{source}/blob/v{version}/CHANGELOG.md",
            "Issues": f"{source}/issues",
        }
        if source
        else {},
    )


if __name__ == "__main__":
    main()
