"""ReCon's zero-shot model against the original's outputs and files."""

import numpy as np
import pytest
import zoo_cases

from mrd_jax.errors import BadInput
from mrd_jax.zoo import recon, tensors

MODELNET40 = {
  field: getattr(recon.RELEASES["recon"].size, field) for field in recon.UNSAID
}


@pytest.fixture(scope="module")
def case():
  return zoo_cases.load(recon, "recon", ratio=MODELNET40["ratio"])


def release() -> dict[str, tuple[int, ...]]:
  """The keys of a file as the original reads them."""
  keys = zoo_cases.key_list("recon-pretrain-base")
  return {key.removeprefix("MAE_encoder."): keys[key] for key in keys}


def test_the_embedding_and_its_stages_equal_the_originals(case):
  zoo_cases.check_embedding(case)
  case.check_stages(
    mini_pointnet="tokenizer/patches",
    position="tokenizer/position",
    block_0="block_0",
    blocks="block_11",
    norm="norm",
    text_feature="text_projection",
    image_feature="image_projection",
  )


def test_centres_and_neighbours_equal_the_originals(case):
  zoo_cases.check_groups(case)


@pytest.mark.slow
def test_neither_padding_nor_a_batch_changes_an_embedding(case):
  zoo_cases.check_alone_and_padded(case)


def test_another_ratio_shows(case):
  image, text = (
    case.outputs[1][f"{kind}_projection"]["__call__"][0]
    for kind in ("image", "text")
  )
  zoo_cases.check_mistake(case, "ratio of text 1 instead of .25", image + text)


def test_sampling_from_another_point_shows(case):
  points = zoo_cases.last_point_first(case.arrays["points"])
  zoo_cases.check_mistake(case, "FPS starts at the last point", case(points)[0])


def test_the_release_has_the_names_and_sizes():
  assert zoo_cases.parameters(recon, release()) == 43_501_312


def test_another_pretraining_is_refused():
  """The standard one has a projection to an image tower of 768 channels."""
  keys = release() | {"img_proj.weight": (768, 384), "img_proj.bias": (768,)}
  state = {key: np.broadcast_to(np.float32(0), keys[key]) for key in keys}
  size = recon.infer(state)
  with pytest.raises(BadInput, match="img_proj.weight has shape"):
    tensors.to_variables(
      recon.table(size),
      recon.make(size),
      state,
      "recon.pth",
      unused=recon.is_unused,
    )
