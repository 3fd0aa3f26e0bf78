"""
Part of the rows at a time
==========================

`MiniBatchKMeans` moves the centers by a thousand rows or more, and takes the next ones: it looks at far fewer rows, and
ends at a somewhat larger inertia. `partial_fit` does one such step with rows that have just arrived.

In the :doc:`guide </guide>`: Part of the rows at a time.
"""

import matplotlib.pyplot as plt

from gpukmeans import KMeans, MiniBatchKMeans, datasets

X = datasets.china().X
whole = KMeans(16, random_state=0).fit(X)
seen, inertia = [], []
model = MiniBatchKMeans(16, random_state=0)
for step in range(60):
    model.partial_fit(X[step::273])  # as they might arrive, from all over the picture
    seen.append((step + 1) * 1000)
    inertia.append(-model.score(X))

_, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(seen, inertia, label="MiniBatchKMeans, by partial_fit")
ax.axhline(whole.inertia_, color="black", linewidth=0.8, label=f"KMeans, {whole.n_iter_} iterations over {len(X):,}")
ax.set(xlabel="rows seen", ylabel="inertia of all rows", yscale="log")
ax.legend()
