"""What pyproject.toml cannot say: the archives have the same bytes whoever builds them, wherever and whenever.

Every file in the sdist and the wheel has one time, one mode and no owner. Their SHA-256 depend on the sources and on
the versions of setuptools, which signs the wheel, and of zlib.
"""

import gzip
import os
import stat
import tarfile
import time
import zipfile

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))
"""The time of all files; by default the beginning of 1980, the first that a zip can hold."""


def _normalised(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = EPOCH
    member.mode = 0o755 if member.isdir() else 0o644
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


class ReproducibleSdist(sdist):
    """setuptools' sdist, which would carry the times, modes and owners of the files on disk."""

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        """Packs the release tree base_dir into <base_name>.tar.gz; signature as in setuptools.

        Raises:
            ValueError: for another format, a root_dir, an owner or a group: only what `python -m build` asks for.
        """
        if format != "gztar" or base_dir is None or (root_dir, owner, group) != (None, None, None):
            raise ValueError(f"only a plain gztar is built here, not {format}; use `python -m build`")
        archive = f"{base_name}.tar.gz"
        with (
            open(archive, "wb") as file,
            gzip.GzipFile("", "wb", 9, file, mtime=EPOCH) as zipped,
            tarfile.open(fileobj=zipped, mode="w") as tar,
        ):
            tar.add(base_dir, filter=_normalised)  # in the order of the names
        return archive


class ReproducibleWheel(bdist_wheel):
    """setuptools' wheel, which orders its files by name but carries their times and modes on disk."""

    def run(self) -> None:
        """Builds the wheel, then packs the same files again."""
        super().run()
        ((_, _, path),) = (built for built in self.distribution.dist_files if built[0] == "bdist_wheel")
        with zipfile.ZipFile(path) as wheel:
            contents = [(name, wheel.read(name)) for name in wheel.namelist()]
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in contents:
                member = zipfile.ZipInfo(name, time.gmtime(EPOCH)[:6])
                member.external_attr = (stat.S_IFREG | 0o644) << 16
                wheel.writestr(member, content, zipfile.ZIP_DEFLATED, 9)


setup(cmdclass={"sdist": ReproducibleSdist, "bdist_wheel": ReproducibleWheel})
