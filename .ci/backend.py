"""setuptools as the build backend, with its template of the source distribution here instead of at the top of the tree."""

from setuptools.build_meta import *  # noqa: F403
from setuptools.command.egg_info import manifest_maker

manifest_maker.template = ".ci/sdist.in"
