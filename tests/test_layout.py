"""The house keeps its own rules: imports point down, a torch-free core, small files, a pure wheel."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("app", "scheduler", "model", "cache", "ops")  # an import may point to the right, never to the left
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
PAGE = sorted((ROOT / "app/page").iterdir())
SOURCES = [ROOT / "__init__.py", ROOT / "__main__.py", *MODULES]
PYTHON_FILES = [
    *SOURCES,
    *(p for folder in ("tests", "loadtest") for p in sorted((ROOT / folder).rglob("*.py"))),
]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_layers(source: str, module: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, layer) of every import of the package in `source`, wherever it stands and however it is spelled.

    module: the importing file's name, as in ("octavo", "app", "cli").
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else ()
            name = tuple(node.module.split(".")) if node.module else ()
            targets = [(*base, *name, alias.name) for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "octavo" and len(target) > 1 and target[1] in LAYERS:
                yield node.lineno, target[1]


def upward_imports(source: str, module: tuple[str, ...]) -> list[str]:
    """The imports in `source` that point to a layer above the module's own."""
    above = LAYERS[: LAYERS.index(module[1])]
    return [f"line {line}: {layer}" for line, layer in imported_layers(source, module) if layer in above]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    module = ("octavo", *path.relative_to(ROOT).with_suffix("").parts)
    assert not upward_imports(path.read_text(), module)


@pytest.mark.parametrize(
    "planted",
    [
        "from ..app import application",
        "from ..app.application import create_app",
        "from .. import app",
        "import octavo.app.application as application",
        "from octavo import scheduler",
        "from octavo.app.application import create_app",
        "def late():\n    from ..scheduler import engine",
        "if TYPE_CHECKING:\n    from ..app.application import create_app",
    ],
)
def test_layer_rule_sees_every_spelling(planted: str) -> None:
    assert upward_imports(planted, ("octavo", "model", "planted"))


def test_layer_rule_allows_down_and_sideways() -> None:
    allowed = "from ..cache import block_pool\nfrom . import plan\nimport octavo.ops.rms_norm"
    assert not upward_imports(allowed, ("octavo", "model", "planted"))


@pytest.mark.parametrize(
    "module",
    [
        "octavo",
        "octavo.scheduler.engine",
        "octavo.app.cli",
        "octavo.model.plan",
        "octavo.model.sampling_params",
        "octavo.cache.block_pool",
        "octavo.cache.block_table",
        "octavo.cache.prefix_cache",
        "octavo.cache.ledger",
        "octavo.cache.config",
    ],
)
def test_core_is_torch_free(module: str) -> None:
    check = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_every_package_on_disk_is_in_the_wheel() -> None:
    on_disk = {
        relative(path.parent).replace("/", ".") for path in ROOT.glob("*/**/__init__.py") if path in MODULES
    }
    assert {"octavo", *(f"octavo.{name}" for name in on_disk)} == set(
        PROJECT["tool"]["setuptools"]["packages"]
    )


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_file_keeps_the_style(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert source.count("\n") <= 300, "a file of more than 300 lines holds more than one noun"
    assert ast.get_docstring(tree), "a file opens with what it is"
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)], (
        "state is passed, not global"
    )
    assert path.name not in {"utils.py", "helpers.py", "common.py", "misc.py"}, (
        "a file is named after its noun"
    )


@pytest.mark.parametrize("layer", ["app", "model", "ops"])
def test_every_file_has_its_place_in_the_architecture(layer: str) -> None:
    architecture = (ROOT / "docs/architecture.md").read_text()
    section = architecture.partition(f"## Who is who in {layer}/")[2].partition("\n## ")[0]
    rows = [line[19:] for line in section.splitlines() if line.startswith("    ")]
    named = [name for row in rows for name in row.split()]
    on_disk = [path.stem for path in MODULES if path.parent.name == layer and path.stem != "__init__"]
    assert sorted(named) == sorted(on_disk)


@pytest.mark.parametrize("path", PAGE, ids=relative)
def test_file_of_the_page_keeps_the_style(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 300, "a file of more than 300 lines holds more than one noun"
    opening = source.split("\n", 3)[:3]
    assert [line for line in opening if line.strip().startswith(("//", "/*", "<!-- "))], (
        "a file opens with what it is"
    )
    outside = set(re.findall(r"\w+://[^\s\"'<>)]+", source)) - {"http://www.w3.org/2000/svg"}
    assert not outside, "the page asks nobody but its own server"
    assert not re.search(r"innerHTML|insertAdjacentHTML|\bon\w+=\"|<style|\bstyle=\"|eval\(", source), (
        "text never becomes HTML or code, and the page's policy allows nothing inline"
    )


def requirement_names(requirements: list[str]) -> set[str]:
    return {canonical(name) for line in requirements for name in re.findall(r"^[A-Za-z][\w.-]*", line)}


def canonical(name: str) -> str:
    """A distribution's name as the packaging specification compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_and_explained() -> None:
    direct = requirement_names(PROJECT["project"]["dependencies"])
    optional = {
        name
        for extra in PROJECT["project"]["optional-dependencies"].values()
        for name in requirement_names(extra)
    }
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = requirement_names([line for line in constraints if "==" in line])
    decisions = (ROOT / "docs/decisions.md").read_text()
    assert not (direct | optional) - pinned
    assert not [name for name in sorted(direct | optional) if f"**{name}**" not in decisions]


def test_every_import_is_a_direct_dependency() -> None:
    """What only comes along with another library may be gone with its next version."""
    imported = {name for path in SOURCES for name in imported_roots(path.read_text())}
    outside = imported - sys.stdlib_module_names - {"octavo"}
    providers = packages_distributions()
    installed_as = {name: {canonical(dist) for dist in providers.get(name, [name])} for name in outside}
    optional = PROJECT["project"]["optional-dependencies"]["otel"]
    direct = requirement_names([*PROJECT["project"]["dependencies"], *optional])
    assert not {name: dists for name, dists in installed_as.items() if not dists & direct}


def imported_roots(source: str) -> Iterator[str]:
    """First names of all absolute imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def test_constraints_pin_exact_versions_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in pins)
    assert len({line.split("==")[0] for line in pins}) == len(pins)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout so that no build/ is left in it, and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    hidden_and_built = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=hidden_and_built)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(folder / "checkout")], check=True, timeout=300)
    (built,) = folder.glob("octavo-*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if not name.startswith("octavo-")}
    assert wheel.stat().st_size < 1_000_000
    assert {f"octavo/{relative(path)}" for path in (*SOURCES, *PAGE)} | {"octavo/py.typed"} <= package
    assert not [name for name in package if not name.startswith("octavo/")]
    assert not [
        name for name in package if name.split("/")[1] in {"tests", "loadtest", "scripts", "docs", "build"}
    ]
