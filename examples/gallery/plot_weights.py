"""
Weights
=======

A weight counts how often a row is there: 96,615 colors with the number of their pixels have the centers of 273,280
pixels, bit for bit, in a third of the rows.

In the :doc:`guide </guide>`: k-means.
"""

import matplotlib.pyplot as plt
import numpy as np

from gpukmeans import KMeans, datasets, plot

X = datasets.china().X
colors, counts = np.unique(X, axis=0, return_counts=True)
start = X[:: len(X) // 16][:16] + 1 / 1024  # between the picture's levels, where no two colors are equally far
pixels = KMeans(16, init=start).fit(X)
weighted = KMeans(16, init=start).fit(colors, sample_weight=counts)
print("equal centers:", pixels.cluster_centers_.tobytes() == weighted.cluster_centers_.tobytes())
print("equal inertia:", pixels.inertia_ == weighted.inertia_)
_, ax = plt.subplots(figsize=(10, 1), layout="constrained")
plot.palette(weighted.cluster_centers_, ax=ax)
