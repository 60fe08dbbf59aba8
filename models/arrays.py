"""The one name for arrays in annotations."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
"""A numpy array; docstrings say shape and type."""
