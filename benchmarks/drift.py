"""What correcting speeds by a reference config's takes away of drift, and what it adds where there is none.

    python benchmarks/drift.py [--studies N] [--seed S] [--out FILE]

A device measures a reference config m times at equal intervals, five windows each, and twelve jobs at random times
between the first and the last. Its log speed is  walk + jitter + window noise: a random walk, what one measurement
alone has, and the windows' own scatter of 0.3%. Judged is the root mean square over jobs of what is left of the walk
(less its mean), uncorrected and corrected, over all studies of a regime.

- `still`: no walk; jitter 0, 0.3% and 1%; m of 3, 4, 6, 12, 24;
- `still, windows hang together`: no walk and no jitter, windows autoregressive (0.9) with a scatter of 0.3% and 1%;
- `walk`: steps such that the walk's own sd over the study is 3, 5 and 10 times the jitter; jitter 0.3% and 1%; the
  same m;
- `jump`: one step of 3, 5 and 10 times the jitter at a random time.

Limits: where there is no walk, correcting adds 0.05% at most; where the sd of walk or jump is three times the jitter or
more, it takes away at least half.

`rule` is the correction before: interpolated between measurements where these differ by more than their windows explain
(p < 0.01), by 0.5% at least, and predict one another when left out. `smoother` is the best other that was found: a
random walk and jitter with variances by marginal likelihood, and its mean given the measurements, where a walk is
shown (p < 0.005 by the ratio of von Neumann, Annals of Mathematical Statistics 12, 1941, against permutations).

Second part: the runs that are recorded. How many measurements of the reference each has, what the rule would correct.
Exit code 0: this is a comparison.
"""
