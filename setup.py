"""Hands the facts in settings.ini to setuptools; pyproject.toml names the backend."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
facts = parser["DEFAULT"]
extras = {key.removesuffix("_requirements"): value.split()
          for key, value in facts.items() if key.endswith("_requirements")}

setup(
    name=facts["lib_name"], version=facts["version"], author=facts["author"], author_email=facts["author_email"],
    license="Apache-2.0", license_files=["LICENSE"], keywords=facts["keywords"].split(),
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers",
                 "Programming Language :: Python :: 3"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=[facts["lib_path"]], package_data={facts["lib_path"]: ["py.typed"]},
    python_requires=">=" + facts["min_python"],
    install_requires=facts["requirements"].split(), extras_require=extras,
    entry_points={"console_scripts": [facts["console_scripts"]],
                  "nbdev": ["transferlit = transferlit._modidx:d"]},
)
