"""The table of published models: facts of OpenShape's repositories."""

import pytest

from mrd_jax.config.pretraining import SIZES
from mrd_jax.convert.published import MODELS, known_grouping
from mrd_jax.encoder.names import Shapes


@pytest.mark.parametrize(
  ("shapes", "grouping", "up_axis", "name", "space"),
  [
    (
      (512, 12, 8, 1536, 256, 1280),
      (384, 0.2, 64),
      "z",
      "vitg14",
      "ViT-bigG-14, laion2b_s39b_b160k",
    ),
    ((512, 12, 8, 1024, 128, 768), (64, 0.4, 256), "y", "vitl14", "ViT-L/14"),
    ((512, 12, 8, 1024, 128, None), (64, 0.4, 256), "y", "vitb32", "ViT-B/32"),
  ],
)
def test_published_models(shapes, grouping, up_axis, name, space):
  model = MODELS[Shapes(*shapes)]
  assert model.grouping == known_grouping(Shapes(*shapes)) == grouping
  assert model.up_axis == up_axis
  assert name in model.name and model.name.startswith("OpenShape/")
  assert model.embedding_space.endswith(space)


@pytest.mark.parametrize(
  ("shapes", "grouping"),
  [
    # OpenShape's scales 1 to 6, its default projection.
    ((256, 6, 4, 1024, 96, 1280), (64, 0.4, 256)),
    ((512, 6, 8, 1024, 128, 1280), (64, 0.4, 256)),
    ((512, 12, 8, 1024, 128, 1280), (128, 0.35, 128)),  # not ViT-L/14's
    ((512, 12, 8, 1536, 256, 1280), (384, 0.2, 64)),
    ((768, 12, 12, 2304, 256, 1280), (512, 0.2, 64)),
    ((768, 24, 12, 3072, 256, 1280), (512, 0.2, 64)),
    # Another teacher changes the projection alone.
    ((512, 12, 8, 1536, 256, 512), (384, 0.2, 64)),
    ((256, 6, 4, 1024, 96, None), (64, 0.4, 256)),
  ],
)
def test_openshapes_scales(shapes, grouping):
  assert known_grouping(Shapes(*shapes)) == grouping


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_our_sizes(size):
  *shapes, groups, radius, group_size = vars(size).values()
  found = known_grouping(Shapes(*shapes, 1280))
  assert found == (groups, radius, group_size)


def test_others_are_unknown():
  assert known_grouping(Shapes(512, 12, 8, 2048, 256, 1280)) is None
  assert known_grouping(Shapes(512, 13, 8, 1536, 256, 1280)) is None
