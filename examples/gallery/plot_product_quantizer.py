"""
A product quantizer
===================

Vectors of 128 values, as SIFT's descriptors are, cut into 8 parts of 16. Each part has a codebook of 32 centers of its
own, and a vector becomes 8 numbers: 5 bytes for 512. `BatchedKMeans` fits all codebooks in one call.
"""

import matplotlib.pyplot as plt
import numpy as np

from gpukmeans import BatchedKMeans

draw = np.random.default_rng(0)
parts, width, k = 8, 16, 32

# Histograms of gradients: not negative, many of them small, parts that go together; as whole numbers up to 255.
themes = draw.gamma(0.6, 30.0, (40, parts * width))
X = draw.dirichlet(np.full(40, 0.2), 2000) @ themes + draw.gamma(0.5, 10.0, (2000, parts * width))
X = np.minimum(X.round(), 255).astype(np.float32)

# %%
# Problem i is part i of all vectors: an array (8, 2000, 16).

subspaces = np.ascontiguousarray(X.reshape(-1, parts, width).transpose(1, 0, 2))
quantizer = BatchedKMeans(k, random_state=0).fit(subspaces)
codes = np.stack(quantizer.labels_, axis=1).astype(np.uint8)
print(f"{X.nbytes:,} bytes become {codes.size * 5 // 8:,}, and codebooks of {quantizer.cluster_centers_.nbytes:,}")

# %%
# A search for the nearest neighbors of a query needs its distances to all centers of each part, once: the distance to
# any vector is then 8 of these added up.

query = X[:1] + draw.normal(0, 5, (1, parts * width)).astype(np.float32)
table = quantizer.transform(np.ascontiguousarray(query.reshape(1, parts, width).transpose(1, 0, 2)))[:, 0] ** 2
approximate = table[np.arange(parts), codes].sum(axis=1)
exact = ((X - query) ** 2).sum(axis=1)
found = np.argsort(approximate)[:10]
print(f"of the 10 nearest, {len(set(found) & set(np.argsort(exact)[:10]))} are found; the first is {found[0]}")

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.scatter(exact, approximate, s=4)
left.plot([0, exact.max()], [0, exact.max()], color="black", linewidth=0.8)
left.locator_params(axis="x", nbins=5)
left.set(xlabel="squared distance", ylabel="the same by codes")
right.bar(range(parts), quantizer.inertia_ / subspaces.var(axis=1).sum(axis=1) / len(X))
_ = right.set(xlabel="part", ylabel="share of the variance that its codes leave")
