"""What is in the wheel and the source archive, and what an index shows of them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import detkit

ROOT = Path(__file__).parents[1]
SOURCE = "https://example.org/somebody/detkit"
# Beside the package and what setuptools writes itself.
OF_THE_ARCHIVE = {
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md"),
    *("pyproject.toml", "setup.py", "setup.cfg", "PKG-INFO"),
}


def of_the_package() -> set[str]:
    files = (path for path in (ROOT / "detkit").rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with both, built offline from a copy that has tests and runs beside the package."""
    try:
        version = importlib.metadata.version("setuptools")
        importlib.metadata.version("build")
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed")
    if int(version.partition(".")[0]) < 77:
        pytest.skip(f"setuptools {version} is older than what builds the package")
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "detkit", copy / "detkit", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, copy)
    for made in ("tests/test_it.py", ".github/a.yml", "benchmarks/b.py", "runs/c.safetensors"):
        (copy / made).parent.mkdir(parents=True, exist_ok=True)
        (copy / made).write_text("", encoding="utf-8")
    folder = tmp_path_factory.mktemp("built")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(copy)],
        env=os.environ | {"DETKIT_SOURCE": SOURCE},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder


def metadata_of(folder: Path) -> dict[str, list[str]]:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(name).decode("utf-8"))
    fields = {key: message.get_all(key, []) for key in message}
    return fields | {"description": [message.get_payload()]}


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == of_the_package()
    assert {"detkit/py.typed", "detkit/report/templates/charts.js"} <= names


def test_the_source_archive_holds_the_package_and_what_tells_of_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    assert {name for name in names if not name.startswith("detkit.egg-info/")} == (
        of_the_package() | OF_THE_ARCHIVE
    )


def test_the_version_is_the_same_wherever_it_stands(built: Path) -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert metadata_of(built)["Version"] == [cited] == [detkit.__version__]


def test_links_of_the_page_on_the_index_lead_to_the_source_at_the_tag(built: Path) -> None:
    fields = metadata_of(built)
    (page,) = fields["description"]
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert all(target.startswith("https://") for target in targets), targets
    at = f"v{detkit.__version__}"
    assert f"{SOURCE}/raw/{at}/docs/detections.jpg" in targets
    assert f"{SOURCE}/blob/{at}/docs/commands.md" in targets
    files = [target.removeprefix(f"{SOURCE}/blob/{at}/") for target in targets]
    here = [name.partition("#")[0] for name in files if not name.startswith("https://")]
    assert len(here) > 8 and all((ROOT / name).is_file() for name in here), here
    assert f"Source, {SOURCE}" in fields["Project-URL"]


def test_a_page_without_a_known_source_has_no_link_that_leads_nowhere() -> None:
    page = subprocess.run(
        [sys.executable, "setup.py", "--long-description"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "DETKIT_SOURCE"},
        capture_output=True,
        encoding="utf-8",
    ).stdout
    assert "# detkit" in page and "[Girshick 2015](https://arxiv.org/abs/1504.08083)" in page
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links and all(link.startswith("https://") for link in links)
    assert "| commands | every command" in page


def test_the_workflow_tests_each_python_that_the_package_says_it_runs_on(built: Path) -> None:
    stated = [line.rpartition(" :: ")[2] for line in metadata_of(built)["Classifier"]]
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    tested = yaml.safe_load(text)["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == [version for version in stated if re.fullmatch(r"3\.\d+", version)]
    assert metadata_of(built)["Requires-Python"] == [f">={tested[0]}"]
