from setuptools import find_packages, setup

setup(name="shapes", version="1.0", package_dir={"": "lib"}, packages=find_packages("lib"))
