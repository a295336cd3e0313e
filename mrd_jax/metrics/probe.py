"""Probes frozen embeddings by logistic regression.

Linear probe and few-shot probe as OpenShape has them (its issue 17): the
multinomial, L2-regularised logistic regression of scikit-learn, fitted by
L-BFGS.  Nothing of the encoder is trained.
"""

import warnings
from collections.abc import Sequence

import chex
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import check_finite
from mrd_jax.metrics.zero_shot import class_mean

MAX_ITERATIONS = 10_000  # on unit embeddings, tens to a few hundred are needed


def linear_probe(
  train_ND: np.ndarray,
  train_label_N: np.ndarray,
  test_ND: np.ndarray,
  test_label_N: np.ndarray,
  *,
  c: float,
) -> dict[str, float]:
  """Computes the accuracy on one split of a regression fitted on another.

  Args:
    train_ND: (N, D) unit embeddings to fit on.
    train_label_N: (N,) class indices; shapes with -1 are left out.
    test_ND: (M, D) unit embeddings to test on.
    test_label_N: (M,) class indices; shapes with -1 are left out.  A class
      that no training shape has is never predicted, and its shapes are wrong.
    c: Inverse strength of the L2 penalty, > 0 (scikit-learn's `C`).

  Returns:
    Shares in [0, 1]: "top1" of all test shapes, and "class_mean", its mean
    over the classes that occur in the test.

  Raises:
    BadInput: if the training shapes are of fewer than two classes, no test
      shape has a label, an embedding is not finite or not of unit length, or
      the fit does not converge.
  """
  # They take a second, which a command's --help should not.
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  chex.assert_shape(test_ND, (None, train_ND.shape[1]))
  train_ND, train_label_N = _labelled("training", train_ND, train_label_N)
  test_ND, test_label_N = _labelled("test", test_ND, test_label_N)
  if c <= 0:
    raise BadInput(f"c is {c}, must be above 0")
  if len(np.unique(train_label_N)) < 2:
    raise BadInput(
      "the training shapes are all of one class; a probe needs two or more"
    )
  model = LogisticRegression(C=c, solver="lbfgs", max_iter=MAX_ITERATIONS)
  with warnings.catch_warnings():
    warnings.simplefilter("error", ConvergenceWarning)
    # One shot of a class is what was asked for.
    warnings.filterwarnings("ignore", "The number of unique classes")
    try:
      model.fit(train_ND, train_label_N)
    except ConvergenceWarning:
      raise BadInput(
        f"the logistic regression with c {c} has not converged after "
        f"{MAX_ITERATIONS} iterations; choose a smaller c"
      ) from None
  hit_M = np.equal(model.predict(test_ND), test_label_N)
  return {
    "top1": float(hit_M.mean()),
    "class_mean": class_mean(test_label_N, hit_M),
  }


def few_shot(
  embeddings_ND: np.ndarray,
  label_N: np.ndarray,
  *,
  shots: int,
  seeds: Sequence[int],
  c: float,
) -> tuple[dict[str, float], dict[str, int]]:
  """Computes the accuracy after `shots` random shapes a class, on the rest.

  One shape of every class at least is kept for the test: a class with too few
  is fitted on all but one of its shapes, so that the classes are the same for
  any number of shots.  A class of a single shape is left out.

  The draw depends on the seed and the class alone, and the shapes that are
  drawn for fewer shots are among those for more.

  Args:
    embeddings_ND: (N, D) unit embeddings, usually of a test split.
    label_N: (N,) class indices; shapes with -1 are left out.
    shots: Shapes of a class to fit on, >= 1.
    seeds: One draw and fit each, >= 0 and distinct.
    c: Inverse strength of the L2 penalty, > 0 (scikit-learn's `C`).

  Returns:
    "top1" and "class_mean" (as `linear_probe`), means over the seeds, and
    unless there is but one seed "top1_std" and "class_mean_std", standard
    deviations of the sample; and counts: "classes" that took part,
    "classes_short", those of them with fewer than `shots` shapes to fit on,
    and "classes_left_out".

  Raises:
    BadInput: if fewer than two classes have two shapes, `shots` or `seeds`
      cannot be used, an embedding is not finite or not of unit length, or a
      fit does not converge.
  """
  if shots < 1:
    raise BadInput(f"shots is {shots}, must be at least 1")
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise BadInput(
      f"seeds are {list(seeds)}, must be one or more distinct numbers from 0 up"
    )
  embeddings_ND, label_N = _labelled("few-shot", embeddings_ND, label_N)
  found, count = np.unique(label_N, return_counts=True)
  classes = found[count > 1]
  if len(classes) < 2:
    raise BadInput(
      f"{len(classes)} of {len(found)} classes has two labelled shapes, one to "
      "fit and one to test on; a few-shot probe needs two such classes"
    )
  in_classes_N = np.isin(label_N, classes)
  members = {label: np.flatnonzero(label_N == label) for label in classes}
  values = []
  for seed in seeds:
    # As masks: in the order of the split, whatever the seed.
    train_N = np.zeros(len(label_N), bool)
    for label, shapes in members.items():
      rng = np.random.default_rng([seed, label])
      drawn = rng.permutation(shapes)[: min(shots, len(shapes) - 1)]
      train_N[drawn] = True
    test_N = in_classes_N & ~train_N
    values.append(
      linear_probe(
        embeddings_ND[train_N],
        label_N[train_N],
        embeddings_ND[test_N],
        label_N[test_N],
        c=c,
      )
    )
  scores = {}
  for name in ("top1", "class_mean"):
    by_seed = [value[name] for value in values]
    scores[name] = float(np.mean(by_seed))
    if len(by_seed) > 1:
      scores[f"{name}_std"] = float(np.std(by_seed, ddof=1))
  return scores, {
    "classes": len(classes),
    "classes_short": int((count[count > 1] <= shots).sum()),
    "classes_left_out": int((count == 1).sum()),
  }


def _labelled(
  split: str, x_ND: np.ndarray, label_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Takes the shapes that have a label: checked float64 embeddings, labels."""
  chex.assert_shape(label_N, (len(x_ND),))
  labelled_N = label_N >= 0
  if not labelled_N.any():
    raise BadInput(f"no {split} shape has a label to probe for")
  check_finite(f"the embedding of {split} shape", x_ND, labelled_N)
  x_ND = x_ND[labelled_N].astype(np.float64)
  # The penalty is on the weights, so `c` means nothing without a length.
  # Float16, in which galleries may be stored, has it within 1e-3.
  far = np.abs(np.linalg.norm(x_ND, axis=1) - 1).max()
  if far > 1e-2:
    raise BadInput(
      f"the length of a {split} embedding is {far:.3g} away from 1; normalise "
      "the embeddings"
    )
  return x_ND, label_N[labelled_N]
