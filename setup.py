"""Which folder of the repository is installed as which package; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# Folder -> package. One top-level package is installed, so that nothing of others' is shadowed.
HOUSE = {
    "psad_tf": "psad_tf",
    "beam": "psad_tf.beam",
    "export": "psad_tf.export",
    "tfx_pipeline": "psad_tf.tfx_pipeline",
    "configs": "psad_tf.configs",
}

packages = [
    f"{HOUSE[top]}{separator}{rest}"
    for folder in HOUSE
    for found in find_packages(include=[folder, f"{folder}.*"])
    for top, separator, rest in [found.partition(".")]
]
setup(packages=packages, package_dir={package: folder for folder, package in HOUSE.items()})
