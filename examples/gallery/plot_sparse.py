"""
Sparse rows
===========

Bags of words store what they hold and nothing else. The labels and centers are those of the dense rows; time and memory
go with what is stored.

In the :doc:`guide </guide>`: Sparse rows.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfTransformer

from gpukmeans import KMeans

rng = np.random.default_rng(0)
themes = rng.dirichlet(np.full(2000, 0.02), size=5)  # how often each of 2,000 words is used, in five themes
truth = rng.integers(0, 5, 1500)
counts = np.array([rng.multinomial(40, themes[theme]) for theme in truth])
X = TfidfTransformer().fit_transform(csr_array(counts))
model = KMeans(5, metric="cosine", n_init=5, random_state=0).fit(X)
print(f"{X.nnz:,} values stored, of {X.shape[0] * X.shape[1]:,}")
print(
    "the same centers as of dense rows:",
    np.array_equal(
        model.cluster_centers_,
        KMeans(5, metric="cosine", init=model.cluster_centers_).fit(X.toarray()).cluster_centers_,
    ),
)

# %%

table = np.zeros((5, 5), int)
np.add.at(table, (truth, model.labels_), 1)
_, ax = plt.subplots(figsize=(4.5, 4), layout="constrained")
ax.imshow(table, cmap="Blues")
ax.set(xlabel="cluster", ylabel="theme", title="documents")
for (i, j), count in np.ndenumerate(table):
    ax.text(j, i, count or "", ha="center", va="center", color="white" if count > 150 else "black")
