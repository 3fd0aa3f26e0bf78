"""
By direction alone
==================

Two themes, in documents of every length: their counts of two words point in two directions, and lie at all distances.
Euclidean k-means cuts by length; ``metric="cosine"`` by direction.

In the :doc:`guide </guide>`: By direction.
"""

import matplotlib.pyplot as plt
import numpy as np

from gpukmeans import KMeans, plot

rng = np.random.default_rng(0)
angles = np.concatenate([rng.normal(0.35, 0.07, 150), rng.normal(1.2, 0.07, 150)])
lengths = rng.lognormal(1.5, 0.8, 300)
X = np.column_stack([np.cos(angles), np.sin(angles)]) * lengths[:, None]

_, axes = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
for ax, metric in zip(axes, ("euclidean", "cosine"), strict=True):
    model = KMeans(2, metric=metric, n_init=10, random_state=0).fit(X)
    plot.clusters(X, model.labels_, ax=ax).set_title(metric)
