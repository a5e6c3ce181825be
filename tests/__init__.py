"""The tests. This is imported before NumPy: a test's matrices are small, and BLAS's threads would only wait on them."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
