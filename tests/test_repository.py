"""The repository keeps its promises: pins, licence, size, layout, and commands in the text that exist."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from finetune.cli.main import COMMANDS, HELP

from .commands import THEIR_WARNINGS
from .commands import command as typed

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "finetune").rglob("*.py"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

LARGEST = 2 * 2**20  # bytes
MAY_BE_LARGER = {"finetune/foundations/mace-mini.pt": 5 * 10**6}
LONGEST_FUNCTION, LONGEST_MODULE = 42, 310  # lines; "about 40" without its docstring, "about 300"
IMPORTED_WHERE_INSTALLED = {"cuequivariance_torch", "openequivariance", "gpaw", "mp_api", "distributed"}
OPEN = ("--model.optimizer.init_args.", "--trainer.logger.", "--cutter.")  # options of a class that the user chooses
NEED_NO_DEPENDENCY = set(sys.stdlib_module_names) | {"finetune"} | IMPORTED_WHERE_INSTALLED


@cache
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def requirements(*extras: str) -> list[Requirement]:
    chosen = [line for extra in extras for line in project()["optional-dependencies"][extra]]
    return [Requirement(line) for line in [*project()["dependencies"], *chosen]]


@cache
def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    assert all(str(pin.specifier).startswith("==") for pin in found)
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in found}


@cache
def files() -> list[Path]:
    """Files that are in the repository or would be added to it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


@cache
def help_text(*command: str) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert typed(*command, "--help") == 0
    return stream.getvalue()


def commands(text: str) -> list[list[str]]:
    """Every `finetune ...` command line of a text's code, split into words."""
    fenced = re.findall(r"```\w*[^\n]*\n(.*?)```", text, flags=re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = "\n".join([*fenced, *spans]).replace("\\\n", " ").splitlines()
    starts = (re.search(r"^(?:\$ |[A-Z_]+=\S+ )*(?:\.venv/bin/)?finetune (.+)", line.strip()) for line in lines)
    return [start[1].split("#")[0].split() for start in starts if start]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first, last = function.body[0], function.end_lineno or function.lineno
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return last - function.lineno + 1 - docstring


def test_the_licence_is_mit_and_says_so_everywhere() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert project()["license"] == "MIT"
    assert re.search(r"^license: MIT$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("requirement", requirements("dev", "docs"), ids=lambda r: r.name)
def test_every_direct_dependency_is_bounded_and_pinned(requirement: Requirement) -> None:
    assert any(bound.operator == ">=" for bound in requirement.specifier)
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_pins_install_everywhere() -> None:
    assert [name for name, version in pins().items() if version.local] == []


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_malicious_releases_of_lightning_are_excluded(version: str) -> None:
    [lightning] = [r for r in requirements() if r.name == "lightning"]
    assert version not in lightning.specifier


def test_every_import_is_a_declared_dependency() -> None:
    always = {canonicalize_name(requirement.name) for requirement in requirements()}
    extras = always | {canonicalize_name(requirement.name) for requirement in requirements("compare", "cluster")}
    providers = packages_distributions()
    undeclared = set()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            declared = always if node in tree.body else extras  # what is imported where it is needed may be an extra
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - NEED_NO_DEPENDENCY:
                if not declared & {canonicalize_name(provider) for provider in providers.get(name, [])}:
                    undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert undeclared == set()


def test_no_large_file_is_in_the_repository() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in files()}
    assert {name: size for name, size in sizes.items() if size > MAY_BE_LARGER.get(name, LARGEST)} == {}


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    places = re.compile(rb"(?<![\w.:/-])/(?:" + b"|".join([b"work", b"tmp", b"root", b"home", b"Users"]) + rb")/\w")
    found = {str(path.relative_to(ROOT)): match[0] for path in files() if (match := places.search(path.read_bytes()))}
    assert found == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_fit_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: code_lines(node) for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


def test_importing_changes_neither_environment_nor_default_dtype() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
    ours = [name for name in names if not name.endswith("__main__")]
    # lightning, torch, joblib and threadpoolctl (of pymatgen) remember things there
    theirs = ("PYTORCH_NVML_BASED_CUDA_CHECK", "TORCHINDUCTOR_CACHE_DIR", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK")
    program = (
        "import importlib, os, torch\n"
        f"state = lambda: ({{k: v for k, v in os.environ.items() if k not in {theirs}}}, torch.get_default_dtype())\n"
        "before = state()\n"
        f"for name in {ours}: importlib.import_module(name)\n"
        "assert state() == before, set(state()[0].items()) ^ set(before[0].items())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_changelog_and_citation_name_the_version() -> None:
    version = project()["version"]
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)


def test_continuous_integration_runs_what_people_run() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().splitlines()[-1] == "exec make test"


@THEIR_WARNINGS
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_text_exist(path: Path) -> None:
    wrong = []
    for words in commands(path.read_text()):
        name, rest = words[0], words[1:]
        if name.startswith("-"):
            continue
        if name not in COMMANDS:
            wrong.append(name)
            continue
        options = {word.split("=")[0] for word in rest if re.match(r"--[a-z]", word)}
        known = set(re.findall(r"--[\w.]+", help_text(name) + HELP))  # that of all commands has those of each
        wrong += [f"{name} {option}" for option in options if option not in known and not option.startswith(OPEN)]
    assert wrong == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_configs_and_make_targets_in_the_text_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    code = "\n".join(re.findall(r"```\w*[^\n]*\n(.*?)```", text, flags=re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"^make ([a-z]+)", code, flags=re.MULTILINE)) <= targets
    named = set(re.findall(r"\bconfigs/[a-z0-9_./-]+\.yaml", text))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_layers_in_the_concepts_are_those_of_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    expected = [set(re.findall(r"\w+", layer)) for layer in contract]
    section = (ROOT / "docs" / "concepts.md").read_text().split("## Layers")[1]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == expected


def test_the_lock_has_a_sum_for_the_versions_of_the_constraints_and_for_nothing_else():
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    found = {}
    for block in blocks:
        if not block.startswith("#"):
            name, _, rest = block.partition("==")
            version, *sums = rest.replace("\\\n", " ").split()
            assert sums
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in sums)
            found[canonicalize_name(name)] = Version(version)
    assert found.pop("setuptools") >= Version("77")
    assert found == pins()
