"""What importing costs."""

import subprocess
import sys

import pytest

import perceiver.data.text

CODE = """
import sys
import perceiver.data.text
print(sorted({"pytorch_lightning", "datasets", "torch", "transformers"} & set(sys.modules)))
"""


def test_importing_the_package_imports_nothing():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_every_exported_name_exists():
    for name in perceiver.data.text.__all__:
        assert getattr(perceiver.data.text, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        perceiver.data.text.Missing  # noqa: B018
