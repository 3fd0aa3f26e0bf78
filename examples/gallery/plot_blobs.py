"""
Points in the plane
===================

The shortest use: 300 points, four clusters, a label for each point and a center for each cluster.

In the :doc:`guide </guide>`: k-means.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import make_blobs

from gpukmeans import KMeans, plot

X, _ = make_blobs(n_samples=300, centers=4, cluster_std=0.6, random_state=0)
kmeans = KMeans(4, random_state=0).fit(X)
print(f"inertia {kmeans.inertia_:.2f} after {kmeans.n_iter_} iterations")

# %%
# `gpukmeans.plot` draws on matplotlib's axes.

_, ax = plt.subplots(figsize=(5, 6), layout="constrained")
plot.clusters(X, kmeans.labels_, kmeans.cluster_centers_, ax=ax)
