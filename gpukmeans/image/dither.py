"""How neighbours make up for what a pixel's color lacks: the names of the ways.

"floyd-steinberg" is error diffusion (diffusion.py). "bayer" and "blue-noise" are ordered dithering (ordered.py) by
these patterns (patterns.py).
"""

DITHERS = ("none", "floyd-steinberg", "bayer", "blue-noise")
