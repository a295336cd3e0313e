"""Relations and losses of the paper, Eq. 1-13."""
