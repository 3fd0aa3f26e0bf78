"""
Dithering
=========

With few colors, smooth areas turn into bands. Dithering mixes two colors where the palette lacks the one between them:
by a fixed pattern, or by handing each pixel's error to its neighbors.

In the :doc:`guide </guide>`: Pictures.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_sample_image

import gpukmeans

picture = load_sample_image("china.jpg")[100:300, 250:500]
_, axes = plt.subplots(2, 2, figsize=(9, 7.4), layout="constrained")
for ax, dither in zip(axes.flat, ("none", "bayer", "blue-noise", "floyd-steinberg"), strict=True):
    result = gpukmeans.quantize(picture, 8, dither=dither)
    ax.imshow(result.palette[result.indices], interpolation="nearest")
    ax.set_title(dither)
    ax.set_axis_off()
