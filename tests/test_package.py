"""
What `python -m build` made, opened and installed.

`tox -e package` builds, and says in AFFILIATIONS_TEST_DIST where.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_string
from email.message import Message
from hashlib import sha256
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
DIST = Path(os.environ["AFFILIATIONS_TEST_DIST"])


def only(pattern: str) -> Path:
    [found] = DIST.glob(pattern)
    return found


@pytest.fixture(scope="module")
def wheel() -> zipfile.ZipFile:
    with zipfile.ZipFile(only("*.whl")) as opened:
        yield opened


@pytest.fixture(scope="module")
def in_wheel(wheel: zipfile.ZipFile) -> set[str]:
    return set(wheel.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile, in_wheel: set[str]) -> Message:
    [name] = [name for name in in_wheel if name.endswith(".dist-info/METADATA")]
    return message_from_string(wheel.read(name).decode())


@pytest.fixture(scope="module")
def in_sdist() -> set[str]:
    with tarfile.open(only("*.tar.gz")) as opened:
        # Everything is in one folder, named after the release.
        names = [PurePosixPath(member.name) for member in opened if member.isfile()]
    return {str(PurePosixPath(*name.parts[1:])) for name in names}


def tracked(*paths: str) -> set[str]:
    """Name the files that git knows under these paths."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *paths],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def test_the_wheel_holds_nothing_but_the_app(in_wheel: set[str]) -> None:
    tops = {PurePosixPath(name).parts[0] for name in in_wheel}
    [dist_info] = tops - {"affiliations"}
    assert dist_info.endswith(".dist-info")


def test_the_wheel_holds_every_file_of_the_app(in_wheel: set[str]) -> None:
    """Python files, and also py.typed, templates, static files and compiled translations."""
    wanted = {name for name in tracked("affiliations") if not name.endswith((".po", ".pot"))}
    assert "affiliations/py.typed" in wanted
    assert wanted - in_wheel == set()


def test_the_wheel_holds_danish_compiled(in_wheel: set[str]) -> None:
    assert "affiliations/locale/da/LC_MESSAGES/django.mo" in in_wheel


def test_the_wheel_holds_the_migrations(in_wheel: set[str]) -> None:
    assert "affiliations/migrations/0001_initial.py" in in_wheel


def test_the_sdist_holds_every_file_of_the_repository(in_sdist: set[str]) -> None:
    assert tracked() - in_sdist == set()


@pytest.mark.parametrize(
    "name",
    [
        ".ci/run",
        "LICENSE",
        "README.rst",
        "docs/index.rst",
        "dummy_project/manage.py",
        "tests/settings.py",
        "tox.ini",
    ],
)
def test_the_sdist_holds(name: str, in_sdist: set[str]) -> None:
    assert name in in_sdist


def test_the_sdist_holds_nothing_that_a_run_left_behind(in_sdist: set[str]) -> None:
    left = in_sdist - tracked() - {"PKG-INFO", "setup.cfg"}
    assert {name for name in left if ".egg-info/" not in name} == set()


def test_the_same_sources_build_the_same_bytes_anywhere(tmp_path: Path) -> None:
    """A copy is newer or older than the repository, and another umask gives it other modes."""
    for name in tracked():
        copy = tmp_path / "copy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
        copy.chmod(copy.stat().st_mode & 0o700)
        os.utime(copy, (1_000_000_000, 1_000_000_000))
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "copy"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        umask=0o077,
    )

    def built(folder: Path) -> dict[str, str]:
        return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}

    assert built(tmp_path / "dist") == built(DIST)


def test_the_licence_is_an_expression_with_its_text(metadata: Message, in_wheel: set[str]) -> None:
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel)


def test_the_changelog_begins_with_this_version(metadata: Message) -> None:
    changelog = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    heading = re.search(r"^(\S+) \(\d{4}-\d\d-\d\d\)\n-+$", changelog, re.MULTILINE)
    assert heading is not None
    assert heading[1] == metadata["Version"]


def test_the_classifiers_name_the_pythons_and_djangos_that_the_tests_run_with(
    metadata: Message,
) -> None:
    def named(what: str) -> set[str]:
        found = (
            re.fullmatch(rf"{what} :: (\d+\.\d+)", line)
            for line in metadata.get_all("Classifier", [])
        )
        return {match[1] for match in found if match}

    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pythons = re.search(r"^pythons=\((.*)\)$", run, re.MULTILINE)
    assert pythons is not None
    assert named("Programming Language :: Python") == set(pythons[1].split())
    djangos = {".".join(digits) for digits in re.findall(r"-dj(\d)(\d)-", run)}
    assert named("Framework :: Django") == djangos


def test_the_wheel_installs_into_a_fresh_environment_and_works(tmp_path: Path) -> None:
    """Migrate a site that has nothing but what the wheel itself asked for."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_ = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

    def run(*command: str) -> str:
        # Not in the repository, where Python would find the sources.
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(str(bin_ / "pip"), "install", "--quiet", str(only("*.whl")))
    run(str(bin_ / "pip"), "check")
    (tmp_path / "site_settings.py").write_text(
        "SECRET_KEY = 'x'\n"
        "INSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes',\n"
        "                  'django.contrib.sessions', 'affiliations']\n"
        "MIDDLEWARE = ['django.contrib.sessions.middleware.SessionMiddleware',\n"
        "              'django.contrib.auth.middleware.AuthenticationMiddleware',\n"
        "              'affiliations.middleware.AffiliateVisitorsRegistrationMiddleware']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3',\n"
        "                         'OPTIONS': {'transaction_mode': 'IMMEDIATE'}}}\n"
        "AFFILIATE_TRIGGERS = [('User registered', 'django.db.models.signals.post_save',\n"
        "                       'affiliations.triggers.object_created', 'auth.User')]\n"
    )
    django = (str(bin_ / "python"), "-m", "django")
    options = ("--settings=site_settings", "--pythonpath=.")
    run(*django, "check", "--fail-level=WARNING", *options)
    run(*django, "migrate", "--verbosity=0", *options)
    made = run(
        *django,
        "shell",
        "--command",
        "import affiliations; from affiliations.models import Partner;"
        "print(affiliations.__file__, len(Partner.objects.create(name='x').uid))",
        *options,
    )
    # Django 5.2 and newer also says what the shell has imported.
    path, length = made.split()[-2:]
    assert Path(path).is_relative_to(tmp_path.resolve())
    assert length == "8"
