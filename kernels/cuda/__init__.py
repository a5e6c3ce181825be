"""CUDA sources, compiled at run time by CuPy."""
