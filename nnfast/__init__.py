"""nnfast: trains feedforward neural networks fast, on NumPy, Numba or CUDA."""
