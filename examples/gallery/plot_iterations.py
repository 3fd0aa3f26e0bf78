"""
The two steps of k-means
========================

Every point takes the label of the nearest center; every center moves to the mean of its points; until no label
changes. The start is bad on purpose: three of the four centers begin in the same heap.

In the :doc:`guide </guide>`: k-means.
"""

import matplotlib.pyplot as plt

from gpukmeans import datasets, plot

X = datasets.blobs().X
_, axes = plt.subplots(2, 4, figsize=(12, 6.6), layout="constrained")
axes[-1, -1].set_axis_off()
plot.steps(X, X[[16, 271, 187, 87]], ax=axes.ravel()[:-1])
