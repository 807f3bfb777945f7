"""Hands the facts in settings.ini to setuptools; pyproject.toml names the backend."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

CLASSIFIERS = """
Development Status :: 3 - Alpha
Intended Audience :: Developers
Intended Audience :: Education
Intended Audience :: Science/Research
Natural Language :: English
Natural Language :: Korean
Operating System :: OS Independent
Programming Language :: Python :: 3
Programming Language :: Python :: 3 :: Only
Programming Language :: Python :: 3.11
Programming Language :: Python :: 3.12
Programming Language :: Python :: 3.13
Topic :: Scientific/Engineering :: Artificial Intelligence
Typing :: Typed
""".strip().splitlines()

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
facts = parser["DEFAULT"]
extras = {key.removesuffix("_requirements"): value.split()
          for key, value in facts.items() if key.endswith("_requirements")}
name = facts["lib_path"]

setup(
    name=facts["lib_name"], version=facts["version"],
    author=facts["author"], author_email=facts["author_email"],
    license="Apache-2.0", license_files=["LICENSE"],
    keywords=facts["keywords"].split(), classifiers=CLASSIFIERS,
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=[name, f"{name}.*"]), package_data={name: ["py.typed"]},
    python_requires=">=" + facts["min_python"],
    install_requires=facts["requirements"].split(), extras_require=extras,
    entry_points={"console_scripts": [facts["console_scripts"]],
                  "nbdev": ["transferlit = transferlit._modidx:d"]},
)
