"""The CPU kernels: C++ sources, and what compiles them."""
