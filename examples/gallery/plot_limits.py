"""
Heaps that k-means does not see
===============================

A point belongs to the nearest center, whatever the clusters look like: right for round heaps of like size. Where it is
wrong, another method, or other coordinates, help.

In the :doc:`guide </guide>`: k-means.
"""

import matplotlib.pyplot as plt
from sklearn.cluster import SpectralClustering
from sklearn.datasets import make_blobs, make_circles
from sklearn.mixture import GaussianMixture

from gpukmeans import KMeans, plot

heaps = [[0, 0], [4.5, 0], [4.5, 3]]
sizes, _ = make_blobs(n_samples=[400, 50, 50], centers=heaps, cluster_std=[2, 0.3, 0.3], random_state=0)
rings, _ = make_circles(n_samples=300, factor=0.4, noise=0.05, random_state=0)
answers = {
    "k-means": (KMeans(3, random_state=0).fit_predict(sizes), KMeans(2, random_state=0).fit_predict(rings)),
    "a method that fits": (
        GaussianMixture(3, n_init=5, random_state=0).fit_predict(sizes),
        SpectralClustering(2, gamma=30, random_state=0).fit_predict(rings),
    ),
}
_, axes = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
for row, (name, found) in zip(axes, answers.items(), strict=True):
    for ax, X, labels in zip(row, (sizes, rings), found, strict=True):
        plot.clusters(X, labels, ax=ax).set_title(name)
