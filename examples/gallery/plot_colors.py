"""
The colors of a photograph
==========================

273,280 pixels are points with three coordinates. 64 centers are the palette that stands for them.

In the :doc:`guide </guide>`: Pictures.
"""

import matplotlib.pyplot as plt
import numpy as np

from gpukmeans import KMeans, datasets, plot

china = datasets.china()
kmeans = KMeans(64, random_state=0).fit(china.X)
quantized = kmeans.cluster_centers_[kmeans.labels_].reshape(china.shape)
_, ax = plt.subplots(figsize=(10, 3.8), layout="constrained")
plot.comparison(china.X.reshape(china.shape), quantized, ax=ax, names=("original", "64 colors"))

# %%

_, ax = plt.subplots(figsize=(10, 1), layout="constrained")
plot.palette(kmeans.cluster_centers_, ax=ax)

# %%
# Each center in its color, as large as its pixels are many.

ax = plt.figure(figsize=(6, 5.5), layout="constrained").add_subplot(projection="3d")
plot.cloud(kmeans.cluster_centers_, np.bincount(kmeans.labels_), ax=ax)
