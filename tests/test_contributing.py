"""What is there for those who carry on: workflows and templates that can be read, and that agree with the project."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GITHUB = ROOT / ".github"
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "RELEASING.md", GITHUB / "PULL_REQUEST_TEMPLATE.md"]
PYTHONS = [
    found[1]
    for each in PROJECT["project"]["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each))
]


def workflow(name):
    return yaml.safe_load((GITHUB / "workflows" / f"{name}.yml").read_text("utf-8"))


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_tests_run_on_every_python_that_the_package_is_for():
    (job,) = workflow("tests")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    assert commands(job) == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_there_are_wheels_for_every_python_that_the_package_is_for():
    settings = PROJECT["tool"]["cibuildwheel"]
    assert settings["build"] == [f"cp{each.replace('.', '')}-*" for each in PYTHONS]
    assert settings["environment"]["PYSTRANDS_COMPILE"] == "1"
    jobs = workflow("wheels")["jobs"]
    assert set(jobs["dist"]["needs"]) == set(jobs) - {"dist"}
    assert jobs["pure"]["env"]["PYSTRANDS_COMPILE"] == "0"
    assert any("cibuildwheel" in each for each in commands(jobs["compiled"]))
    machines = jobs["compiled"]["strategy"]["matrix"]["machine"]
    assert {each.split("-")[0] for each in machines} == {"ubuntu", "macos"}
    assert any(each.endswith("-arm") for each in machines)


def test_the_programs_that_workflows_run_are_there():
    smoke = PROJECT["tool"]["cibuildwheel"]["test-command"].replace("{project}/", "")
    for command in [smoke, *(each for job in workflow("wheels")["jobs"].values() for each in commands(job))]:
        for word in shlex.split(command):
            if word.startswith(".ci/"):
                assert (ROOT / word).is_file(), word
    assert ".ci/smoke.py" in smoke


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_are_whole(name):
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text("utf-8"))
    assert {"name", "description", "body"} <= set(form)
    asked = [each for each in form["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in asked}) == len(asked)
    assert any(each.get("validations", {}).get("required") for each in asked)
    assert all(each["attributes"].get("label") or each["type"] == "markdown" for each in form["body"])


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_what_is_checked_before_a_commit_is_local():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [each["repo"] for each in config["repos"]] == ["local"]
    entries = [hook["entry"].split() for each in config["repos"] for hook in each["hooks"]]
    assert [(entry[0], entry[-1]) for entry in entries] == [("make", "lint"), ("make", "types")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_pages_name_is_there(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets(), f"{page.name}: make {target}"
    for path in re.findall(r"`((?:\.ci|docs|tests|src|fuzz)/[\w./*-]*)`", text):
        assert any(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"
    for target in re.findall(r"\]\(([^):]+?)(?:#[^)]*)?\)", text):
        assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_every_marker_is_explained():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]:
        assert f"- `{marker.split(':')[0]}`: " in text


def test_the_sources_of_a_release_have_all_of_this():
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    ours = {path.name for path in ROOT.iterdir() if path.name.endswith((".md", ".toml", ".yml", ".yaml", ".txt"))}
    assert ours - set(included) == {"pyproject.toml"}  # which is always in it
    assert all((ROOT / each).exists() for each in included)
