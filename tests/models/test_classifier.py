"""The classifier against plain PyTorch, and what it drops in training."""

import pytest

pytest.importorskip("torch", reason="parity tests need the torch extra")

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from encoders import TINY
from weights import make_twin, surface_clouds, to_flax

from mrd_jax.models import pointbert
from mrd_jax.models.classifier import Classifier
from mrd_jax.models.pointbert import PointBERT, drop_path

CLASSES, HIDDEN = 7, 20
CLOUDS = surface_clouds(3, 4, 60), np.array([60, 45, 30, 5])


def make_model(rate=0.0, dropout=0.0, size=TINY, **changes) -> Classifier:
  encoder = PointBERT(size, None, drop_path=rate, output="tokens", **changes)
  return Classifier(encoder, CLASSES, HIDDEN, dropout)


def shapes_of(model) -> dict:
  """Of its variables."""
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), *CLOUDS)


@pytest.fixture
def weights():
  """Random weights: the twin, its head, and both as our variables."""
  twin = make_twin(TINY, embed_dim=5, seed=1)
  head = torch.nn.Sequential(
    torch.nn.Linear(2 * TINY.width, HIDDEN),
    torch.nn.ReLU(),
    torch.nn.Linear(HIDDEN, CLASSES),
  )
  encoder = to_flax(twin.state_dict())
  params = {k: v for k, v in encoder["params"].items() if k != "proj"}
  layers = {
    name: {
      "kernel": layer.weight.detach().numpy().T.copy(),
      "bias": layer.bias.detach().numpy().copy(),
    }
    for name, layer in (("hidden", head[0]), ("classes", head[2]))
  }
  variables = {
    "params": {"encoder": params, **layers},
    "batch_stats": {"encoder": encoder["batch_stats"]},
  }
  return twin, head, variables


def twin_logits(twin, head, train: bool):
  """Point-BERT's head on the tokens of the twin's trunk."""
  twin.train(train)
  points, counts = map(torch.tensor, CLOUDS)
  ppat = twin.ppat
  centers, groups = ppat.sa(points[..., :3], points, counts)
  tokens = ppat.lift(torch.cat([centers, groups], dim=1))
  cls = ppat.cls_token.expand(len(points), 1, -1)
  tokens = ppat.transformer(torch.cat([cls, tokens], dim=1))
  return head(torch.cat([tokens[:, 0], tokens[:, 1:].amax(dim=1)], dim=-1))


@functools.partial(jax.jit, static_argnames=("model", "train"))
def logits_of(model, variables, *, train, rngs=None):
  found = model.apply(
    variables,
    *CLOUDS,
    train=train,
    mutable=["batch_stats"] if train else False,
    rngs=rngs,
  )
  return found[0] if train else found


def test_logits_equal_pytorch(weights):
  twin, head, variables = weights
  with torch.no_grad():
    expected = twin_logits(twin, head, train=False).numpy()
  found = np.asarray(logits_of(make_model(), variables, train=False))
  assert found.dtype == np.float32 and found.shape == (4, CLASSES)
  assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_logits_and_gradients_in_training_equal_pytorch(weights):
  """Of the head and, through both token paths, of the trunk."""
  twin, head, variables = weights
  labels = [3, 0, 6, 3]
  expected = twin_logits(twin, head, train=True)
  torch.nn.functional.cross_entropy(expected, torch.tensor(labels)).backward()

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradients(params):
    found = logits_of(make_model(), variables | {"params": params}, train=True)
    loss = -jax.nn.log_softmax(found)[jnp.arange(4), jnp.array(labels)].mean()
    return loss, found

  ours, found = gradients(variables["params"])
  expected = expected.detach().numpy()
  assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
  theirs = to_flax(
    {k: p.grad for k, p in twin.named_parameters() if "proj" not in k}
  )
  theirs = theirs["params"]
  assert ours["encoder"].keys() == theirs.keys()
  pairs = [
    (ours["hidden"]["kernel"], head[0].weight.grad.numpy().T),
    (ours["classes"]["bias"], head[2].bias.grad.numpy()),
    (ours["encoder"]["cls_token"], theirs["cls_token"]),
    (ours["encoder"]["lift"]["kernel"], theirs["lift"]["kernel"]),
    (
      ours["encoder"]["block_1"]["mlp_out"]["kernel"],
      theirs["block_1"]["mlp_out"]["kernel"],
    ),
  ]
  for mine, other in pairs:
    assert np.abs(mine - other).max() < 2e-5 * np.abs(other).max()


def test_tokens_are_those_of_the_embedding(weights):
  """Same parameters but the projection, which takes the first token."""
  variables = to_flax(weights[0].state_dict())
  whole, tokens = (
    PointBERT(TINY, 5, output=output) for output in ("embedding", "tokens")
  )
  proj = variables["params"]["proj"]
  expected, found = (
    jax.jit(functools.partial(model.apply, train=False))(variables, *CLOUDS)
    for model in (whole, tokens)
  )
  assert found.shape == (4, 1 + TINY.groups, TINY.width)
  np.testing.assert_allclose(
    found[:, 0] @ proj["kernel"] + proj["bias"], expected, rtol=1e-5, atol=1e-5
  )
  names = [set(shapes_of(model)["params"]) for model in (whole, tokens)]
  assert names[0] - names[1] == {"proj"} and names[1] < names[0]


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
  x = jax.random.normal(jax.random.key(0), (20_000, 2, 3)) + 3
  rate = 0.3
  found = np.asarray(drop_path(x, rate, jax.random.key(1)))
  lost = (found == 0).all(axis=(1, 2))
  np.testing.assert_allclose(found[~lost], x[~lost] / (1 - rate), rtol=1e-6)
  # Five standard errors of a share of 20,000.
  assert abs(lost.mean() - rate) < 5 * (rate * (1 - rate) / len(lost)) ** 0.5
  np.testing.assert_allclose(found.mean(axis=0), x.mean(axis=0), rtol=0.03)


@pytest.mark.parametrize("remat", ["none", "blocks"])
@pytest.mark.parametrize(
  ("depth", "expected"), [(3, [0.1, 0.1, 0.2, 0.2]), (1, [])]
)
def test_drop_path_grows_linearly_in_training_alone(
  monkeypatch, remat, depth, expected
):
  """Twice a block, never in the first; without rates no key is asked for."""
  rates = []

  def record(x, rate, key):
    del key
    rates.append(rate)
    return x

  monkeypatch.setattr(pointbert, "drop_path", record)
  model = make_model(
    rate=0.2, size=dataclasses.replace(TINY, depth=depth), remat=remat
  )
  variables = shapes_of(model)
  logits = functools.partial(logits_of, model)
  jax.eval_shape(functools.partial(logits, train=False), variables)
  assert rates == []
  rngs = {"drop_path": jax.random.key(0)} if expected else None
  jax.eval_shape(functools.partial(logits, train=True, rngs=rngs), variables)
  np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize("what", ["rate", "dropout"])
def test_nothing_is_dropped_in_evaluation(weights, what):
  found, expected = (
    logits_of(model, weights[2], train=False)
    for model in (make_model(**{what: 0.5}), make_model())
  )
  np.testing.assert_array_equal(found, expected)


def test_drop_path_follows_its_key(weights):
  model = make_model(rate=0.5)
  found = [
    logits_of(
      model, weights[2], train=True, rngs={"drop_path": jax.random.key(seed)}
    )
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(found[0], found[1])
  assert not np.allclose(found[0], found[2])


def test_dropout_keeps_the_expectation(weights):
  _, _, variables = weights
  model = make_model(dropout=0.5)
  keys = jax.random.split(jax.random.key(0), 500)
  found = jax.vmap(
    lambda key: logits_of(model, variables, train=True, rngs={"dropout": key})
  )(keys)
  expected = logits_of(make_model(), variables, train=True)
  error = found.std(axis=0) / len(keys) ** 0.5
  assert (error > 0).all()
  assert (np.abs(found.mean(axis=0) - expected) < 5 * error).all()
