"""A shape's loss at its best learning rate, from a few rates: how near it is to that at the true optimum.

    python benchmarks/nuisance_rate.py [--studies N] [--seed S] [--out FILE]

A study has four shapes at three learning rates, a factor of two apart, with two or three seeds. A shape's loss is a
parabola in the log2 of the rate whose optimum lies anywhere within 1.2 octaves of the middle rate: for one in six
beyond the rates tried. Trials scatter by 1, which is the unit of all figures; a seed shifts all by one draw of the same
size. Curvature c: the loss one octave off the optimum is c above it.

- `curvature c`, for c of 0, 0.5, 1, 2, 4, 6: the same curvature for all shapes;
- `inside c`: the same, with every optimum within 0.75 octaves of the middle;
- `own curvature 2`: each shape's is 2 × exp(N(0, 0.4²)), so that none is shared;
- `skewed 2`: a cubic term too, a third as large as the parabola one octave off: steeper above the optimum, as true
  curves are;
- `five rates 2`: five rates, optima within 2.2 octaves;
- `many shapes 2`: twelve shapes.

Judged are differences between two shapes against those of the losses at the true optima: root mean square error, and
how often their 95% intervals hold (per comparison). Limits: at no `curvature` is the error more than 10% above that of
the plain minimum (the lowest mean of a shape's rates), at 2 it is at least 5% below, at 6 at least 20%; in all
`curvature` and `inside` regimes intervals hold 93% or more. An optimum at an end of the rates is refused as one: pairs
with such a shape are shown apart, as nothing is claimed of their optimum.

`cross_validated` is the estimate before, `plain_minimum` the yardstick. Exit code 1 where a limit isn't kept.
"""
