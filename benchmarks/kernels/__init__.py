"""Honest kernels that the benchmarks hand to judges: one module per operation, several versions of
each that differ in what a kernel's author really varies."""
