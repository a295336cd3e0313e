"""Makes synthetic features: concept vectors in the place of a CLIP model.

Nothing here has seen an image or was trained.  Every concept (a family, a
colour, a material, a size word, a part) has a fixed random direction; a text
is the sum of the concepts that it mentions, an image the sum of those that
are true of the shape.  What makes CLIP hard to imitate is put in on purpose:

- related classes: the families of one super-category share a direction, so
  the relations between classes are known in advance;
- a modality gap: images and texts each carry a constant offset, so that a
  true image-text pair is less similar than two images of different classes;
- mistakes: noise per view and per text, and shapes that look like another
  family of their group, some of them more than like their own.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.procedural.families import FAMILIES
from mrd_jax.procedural.objects import Concept, Description
from mrd_jax.procedural.texts import VOCABULARY, mentions, with_article

GROUP_SHARE = 0.4  # cosine of two families of one super-category
WEIGHTS = {
  "family": 1.0,
  "color": 0.35,
  "part": 0.25,
  "material": 0.2,
  "size": 0.2,
}
MODALITY_OFFSET = 1.2  # norm; a shape's content has a norm of about 1.15
TEXT_NOISE = 0.25  # norm
VIEW_NOISE = 0.6  # norm, drawn for every view
SHAPE_NOISE = 0.3  # norm, shared by the views of a shape
AMBIGUITY = 0.57  # greatest share of another family in a shape's image
TEMPLATES = (
  "{}",
  "a photo of {}",
  "a 3d model of {}",
  "a point cloud of {}",
  "a rendering of {}",
)


class SyntheticTeacher:
  """Makes synthetic text and image features of width D = `embed_dim`.

  A pure function of (embed_dim, seed): two instances agree bit for bit, and
  no call changes another's result.  All features are float32 unit vectors.

  Attributes:
    embed_dim: Width D, at least 8; from about 128 on the concepts are so
      nearly orthogonal that zero-shot accuracy no longer depends on it.
    seed: Non-negative.

  Raises:
    ValueError: when an argument is out of range.
  """

  def __init__(self, embed_dim: int = 128, *, seed: int = 0) -> None:
    if embed_dim < 8 or seed < 0:
      raise ValueError(
        f"needs embed_dim >= 8 and seed >= 0, got {embed_dim} and {seed}"
      )
    self.embed_dim = embed_dim
    self.seed = seed
    # Concepts are kept orthogonal to both offsets, and these to each other,
    # so that the gap is the same for every seed and favours no class.
    image = self._direction("modality/image")
    text = self._direction("modality/text")
    text -= (text @ image) * image
    self._modality = np.stack([image, text / np.linalg.norm(text)])
    self._image_offset, self._text_offset = MODALITY_OFFSET * self._modality
    self._concepts: dict[Concept, np.ndarray] = {}
    for kind, name in set(VOCABULARY.values()):
      vector = self._direction(f"{kind}/{name}")
      if kind == "family":
        group = self._direction(f"group/{FAMILIES[name].group}")
        vector = np.sqrt(1 - GROUP_SHARE) * vector
        vector += np.sqrt(GROUP_SHARE) * group
      vector -= vector @ self._modality.T @ self._modality
      vector /= np.linalg.norm(vector)
      self._concepts[kind, name] = WEIGHTS[kind] * vector

  @property
  def name(self) -> str:
    """Says who made the features of a dataset."""
    return f"synthetic teacher (D={self.embed_dim}, seed {self.seed})"

  def text_features(self, texts: Sequence[str]) -> np.ndarray:
    """Returns features (T, D) of texts; equal texts have equal features.

    A text that mentions no known concept gets the offset and its noise only.
    """
    features = np.empty((len(texts), self.embed_dim))
    for feature, text in zip(features, texts, strict=True):
      feature[:] = self._text_offset
      feature += TEXT_NOISE * self._direction(f"text/{text}")
      for concept in mentions(text):
        feature += self._concepts[concept]
    return _normalize(features)

  def image_features(
    self, description: Description, num_views: int, rng: np.random.Generator
  ) -> np.ndarray:
    """Returns features (V, D) of `num_views` imagined views of a shape.

    Args:
      description: What is true of the shape.
      num_views: V.
      rng: The shape's own source of noise.
    """
    family, *rest = description.concepts()
    content = sum((self._concepts[c] for c in rest), self._image_offset)
    # It looks a little, or more, like another family of its super-category.
    group = FAMILIES[description.family].group
    others = [n for n, f in FAMILIES.items() if f.group == group]
    others.remove(description.family)
    double = ("family", others[rng.integers(len(others))])
    share = AMBIGUITY * rng.random() ** 3
    content = content + (1 - share) * self._concepts[family]
    content += share * self._concepts[double]
    scale = np.sqrt(self.embed_dim)
    content += rng.normal(0, SHAPE_NOISE / scale, self.embed_dim)
    shape = (num_views, self.embed_dim)
    return _normalize(content + rng.normal(0, VIEW_NOISE / scale, shape))

  def class_features(self, class_names: Sequence[str]) -> np.ndarray:
    """Returns a zero-shot classifier (C, D): means over templates, normalised.

    Raises:
      BadInput: for a name that is neither a family nor a synonym of one.
    """
    features = []
    for name in class_names:
      kind, family = VOCABULARY.get(name.lower(), ("", ""))
      if kind != "family":
        raise BadInput(
          f"class {name!r} is unknown to the synthetic teacher; it knows "
          "the families of mrd_jax.procedural.shapes.CLASS_NAMES"
        )
      noun = with_article(name, FAMILIES[family].plural)
      texts = [template.format(noun) for template in TEMPLATES]
      features.append(self.text_features(texts).mean(axis=0))
    return _normalize(np.reshape(features, (-1, self.embed_dim)))

  def _direction(self, key: str) -> np.ndarray:
    """Returns a fixed random unit vector (D,) for a key; never by hash()."""
    entropy = (self.seed, zlib.crc32(key.encode()))
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    vector = rng.normal(size=self.embed_dim)
    return vector / np.linalg.norm(vector)


def _normalize(features: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(features, axis=-1, keepdims=True)
  return (features / norm).astype(np.float32)
