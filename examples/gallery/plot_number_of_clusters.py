"""
How many clusters?
==================

The inertia always falls as clusters are added: look for the bend. A silhouette is near 1 for points well inside their
cluster; with the right number, all clusters reach past the mean, the dashed line.

In the :doc:`guide </guide>`: Choosing the number of clusters.
"""

import matplotlib.pyplot as plt

from gpukmeans import KMeans, datasets, plot

X = datasets.blobs().X
fits = {k: KMeans(k, n_init=10, random_state=0).fit(X) for k in range(1, 9)}
_, ax = plt.subplots(figsize=(6, 4), layout="constrained")
plot.elbow(fits.values(), ax=ax)

# %%

_, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for ax, k in zip(axes, (3, 4, 5), strict=True):
    plot.silhouette(X, fits[k].labels_, ax=ax).set_title(f"{k} clusters")
