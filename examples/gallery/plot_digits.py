"""
Handwritten digits
==================

1,797 pictures of 8 x 8 pixels are points with 64 coordinates. A center is the mean of its pictures, and so a picture.

In the :doc:`guide </guide>`: k-means.
"""

import matplotlib.pyplot as plt
import numpy as np

from gpukmeans import KMeans, datasets, plot

digits = datasets.digits()
kmeans = KMeans(10, n_init=10, random_state=0).fit(digits.X)
names = datasets.map_labels(kmeans.labels_, digits.truth)
order = np.argsort(names, kind="stable")
_, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
plot.centers(kmeans.cluster_centers_[order], ax=ax, names=names[order])

# %%
# Rows are what a digit is, columns what its cluster is called, after the digit most frequent in it.

print(f"accuracy {datasets.accuracy(kmeans.labels_, digits.truth):.1%}")
_, ax = plt.subplots(figsize=(5.5, 5), layout="constrained")
plot.confusion(datasets.confusion(kmeans.labels_, digits.truth), ax=ax)
