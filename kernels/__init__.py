"""CUDA C++ sources, one family of kernels to a file, compiled when they are first used."""
