"""Refuses to build the package without its kernels. All else that setuptools needs is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

if not Path(__file__).with_name("nnfast").joinpath("kernels", "__init__.py").is_file():
    raise SystemExit("""
nnfast/kernels must be a symbolic link to kernels/, but this checkout was made without symbolic links, as Git does on
Windows and where core.symlinks is false. The package would lack its kernels. Restore the link in the checkout:

    git config core.symlinks true
    git checkout -- nnfast/kernels

On Windows, Git may make links in Developer Mode. A junction needs no permission (in cmd):

    del nnfast\\kernels
    mklink /J nnfast\\kernels kernels
""")

setup()
