"""What the benchmarks share: libraries to compare with, the machine they ran on, and tables of what was measured."""
