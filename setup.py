"""
Build the same bytes from the same sources, on any machine and at any time.

All metadata is in pyproject.toml, and MANIFEST.in lists the files of the sdist.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

# The modes of files, in the wheel as well.
os.umask(0o022)
# The time of files: the earliest that a wheel can hold.
EPOCH = os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800")


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = int(EPOCH)
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


class ReproducibleSdist(sdist):
    """Write an archive without the time, the owner, the modes and the order of this machine."""

    def make_archive(self, base_name: str, *args: object, base_dir: str, **kwargs: object) -> str:
        path = f"{base_name}.tar.gz"
        with (
            Path(path).open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(EPOCH)) as compressed,
            tarfile.open(fileobj=compressed, mode="w") as archive,
        ):
            for name in sorted(Path(base_dir).rglob("*")):
                archive.add(name, recursive=False, filter=anonymous)
        return path


setup(cmdclass={"sdist": ReproducibleSdist})
