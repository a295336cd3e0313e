"""OpenShape's names and shapes, and what is no state dict of its encoder.

That the names are given to the right tensors is in tests/models, by parity with
PyTorch.
"""

import functools

import jax
import numpy as np
import pytest
from encoders import EMBED_DIM, TINY, random_variables

from mrd_jax.config.pretraining import SIZES
from mrd_jax.errors import BadInput
from mrd_jax.zoo import openshape, tensors
from mrd_jax.zoo.registry import identify

# Keys and shapes of OpenShape's scale 4 (its ViT-bigG-14 models); a star stands
# for each of the 12 layers.
SCALE_4 = """
ppat.cls_token 512
ppat.sa.mlp_convs.0.weight 64 9 1 1
ppat.sa.mlp_convs.0.bias 64
ppat.sa.mlp_convs.1.weight 64 64 1 1
ppat.sa.mlp_convs.1.bias 64
ppat.sa.mlp_convs.2.weight 256 64 1 1
ppat.sa.mlp_convs.2.bias 256
ppat.sa.mlp_bns.0.weight 64
ppat.sa.mlp_bns.0.bias 64
ppat.sa.mlp_bns.0.running_mean 64
ppat.sa.mlp_bns.0.running_var 64
ppat.sa.mlp_bns.0.num_batches_tracked
ppat.sa.mlp_bns.1.weight 64
ppat.sa.mlp_bns.1.bias 64
ppat.sa.mlp_bns.1.running_mean 64
ppat.sa.mlp_bns.1.running_var 64
ppat.sa.mlp_bns.1.num_batches_tracked
ppat.sa.mlp_bns.2.weight 256
ppat.sa.mlp_bns.2.bias 256
ppat.sa.mlp_bns.2.running_mean 256
ppat.sa.mlp_bns.2.running_var 256
ppat.sa.mlp_bns.2.num_batches_tracked
ppat.lift.0.weight 512 259 1
ppat.lift.0.bias 512
ppat.lift.2.weight 512
ppat.lift.2.bias 512
ppat.transformer.layers.*.0.norm.weight 512
ppat.transformer.layers.*.0.norm.bias 512
ppat.transformer.layers.*.0.fn.to_qkv.weight 1536 512
ppat.transformer.layers.*.0.fn.to_out.0.weight 512 512
ppat.transformer.layers.*.0.fn.to_out.0.bias 512
ppat.transformer.layers.*.1.norm.weight 512
ppat.transformer.layers.*.1.norm.bias 512
ppat.transformer.layers.*.1.fn.net.0.weight 1536 512
ppat.transformer.layers.*.1.fn.net.0.bias 1536
ppat.transformer.layers.*.1.fn.net.3.weight 512 1536
ppat.transformer.layers.*.1.fn.net.3.bias 512
proj.weight 1280 512
proj.bias 1280
"""


def scale_4() -> dict[str, tuple[int, ...]]:
  shapes = {}
  for line in SCALE_4.strip().split("\n"):
    key, *shape = line.split()
    for i in range(12):
      shapes[key.replace("*", str(i))] = tuple(map(int, shape))
  return shapes


def assert_same(found, expected) -> None:
  """Two trees have the same arrays, every bit."""
  same = functools.partial(np.testing.assert_array_equal, strict=True)
  jax.tree.map(same, found, expected)


@pytest.fixture
def state() -> dict[str, np.ndarray]:
  return openshape.to_state_dict(
    random_variables(TINY, EMBED_DIM), num_batches_tracked=7
  )


def from_state_dict(state, name):
  """What `load_encoder` makes of a file's tensors."""
  key, size = identify(state, name)
  assert key == "pointbert"
  return tensors.to_variables(
    openshape.table(size), openshape.make(size), state, name
  )


# Names and shapes.


def test_openshapes_keys():
  variables = random_variables(SIZES["m"], 1280)
  state = openshape.to_state_dict(variables, num_batches_tracked=123)
  assert {key: x.shape for key, x in state.items()} == scale_4()
  for key, x in state.items():
    counter = key.endswith("num_batches_tracked")
    assert x.dtype == (np.int64 if counter else np.float32), key
    assert x.flags.c_contiguous, key  # safetensors would scramble it
    assert not counter or x == 123
  size = openshape.Size(**vars(SIZES["m"]), embed_dim=1280)
  assert openshape.infer(state) == size
  assert_same(from_state_dict(state, "x"), variables)
  assert openshape.num_batches_tracked(state) == 123


def test_without_a_projection():
  variables = random_variables(TINY, None)
  state = openshape.to_state_dict(variables, num_batches_tracked=0)
  assert len(state) == 26 + 2 * 11
  assert all(key.startswith("ppat.") for key in state)
  assert identify(state, "x")[1].embed_dim is None
  assert_same(from_state_dict(state, "x"), variables)


def test_a_tree_holds_what_there_is():
  """Gradients have no statistics; a frozen tensor has none at all."""
  state = {"ppat.cls_token": np.ones(3), "proj.weight": np.ones((5, 3))}
  tree = openshape.to_tree(state)
  assert tree.keys() == {"params"}
  assert tree["params"].keys() == {"cls_token", "proj"}
  assert tree["params"]["proj"]["kernel"].shape == (3, 5)
  state["ppat.cls_token"][:] = 2  # as an optimizer does, in place
  assert tree["params"]["cls_token"].tolist() == [1, 1, 1]


COUNTER = "ppat.sa.mlp_bns.1.num_batches_tracked"


def test_counters_may_be_absent(state):
  kept = {k: x for k, x in state.items() if "num_batches" not in k}
  assert len(state) - len(kept) == 3
  assert_same(from_state_dict(kept, "x"), random_variables(TINY, EMBED_DIM))
  assert openshape.num_batches_tracked(kept) == 0


# What is no state dict of the encoder.

QKV = "ppat.transformer.layers.0.0.fn.to_qkv.weight"
MLP = "ppat.transformer.layers.0.1.fn.net.0.weight"
CONV = "ppat.sa.mlp_convs.0.weight"


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("ppat.cls_token", np.ones(()), "is of no system that is known"),
    ("ppat.cls_token", np.ones(0), "is of no system that is known"),
    ("ppat.cls_token", np.ones(31), r"has shape \(32, 19, 1\), must be \(31"),
    (QKV, np.ones((0, 32)), "is of no system that is known"),
    (QKV, np.ones((190, 32)), r"shape \(190, 32\), must be \(192, 32\)"),
    (QKV, np.ones((384, 32)), r"to_out.0.weight has shape \(32, 64\)"),
    (MLP, np.ones((0, 32)), "is of no system that is known"),
    ("ppat.lift.2.bias", np.ones((32, 1)), r"shape \(32, 1\), must be \(32,\)"),
    # Without colours.
    (
      CONV,
      np.ones((64, 6, 1, 1)),
      r"has shape \(64, 6, 1, 1\), must be \(64, 9",
    ),
    ("proj.bias", np.full(10, np.nan), "proj.bias holds NaN"),
    ("ppat.sa.mlp_bns.2.running_var", np.full(16, np.inf), "infinite"),
    (COUNTER, np.ones(1), r"tracked has shape \(1,\), must be \(\)"),
    (COUNTER, np.array(np.nan), "tracked holds NaN"),
    ("text.weight", np.ones(1), "also holds text.weight"),
    (
      "ppat.transformer.layers.2.0.norm.weight",
      np.ones(32),
      r"lacks ppat\S+, ppat\S+, ppat\S+ and 7 more",
    ),
  ],
)
def test_tensors_that_do_not_fit(state, key, value, message):
  with pytest.raises(BadInput, match=rf"^a\.pt.*{message}"):
    from_state_dict({**state, key: value}, "a.pt")


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("proj.bias", "lacks proj.bias"),
    ("proj.weight", "also holds proj.bias"),
    ("ppat.cls_token", "of no system .* holds ppat.sa.mlp_convs.0.weight"),
    ("ppat.sa.mlp_bns.1.running_var", "lacks .*running_var"),
    ("layers.", "of no system that is known"),
    ("", "of no system .* it holds nothing"),
  ],
)
def test_tensors_that_are_missing(state, pattern, message):
  kept = {key: x for key, x in state.items() if pattern not in key}
  with pytest.raises(BadInput, match=rf"^a\.pt .*{message}"):
    from_state_dict(kept, "a.pt")


def test_layers_are_counted_from_0_without_gaps(state):
  shallow = {key: x for key, x in state.items() if "layers.1." not in key}
  assert openshape.infer(shallow).depth == 1
  from_state_dict(shallow, "x")
  gap = {k.replace("layers.1.", "layers.7."): x for k, x in state.items()}
  with pytest.raises(BadInput, match=r"lacks ppat\.transformer\.layers\.1\."):
    from_state_dict(gap, "x")
