"""The synthetic dataset: geometry, objects, captions, teacher, shapes."""

import numpy as np
import pytest
import runs
from synthetic import TEACHER, digest, synthetic_shape

from mrd_jax.data import records
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.errors import BadInput
from mrd_jax.procedural import geometry, objects, texts
from mrd_jax.procedural.families import FAMILIES, registry
from mrd_jax.procedural.shapes import CLASS_NAMES, SyntheticTeacher

NUM_CLASSES = len(CLASS_NAMES)


@pytest.fixture(scope="module")
def shapes():
  """Twelve shapes of every family, with few points."""
  return [synthetic_shape(i, num_points=64) for i in range(12 * NUM_CLASSES)]


@pytest.fixture(scope="module")
def cosines(shapes):
  """First-view features' cosines (S, S), and labels and groups (S,)."""
  features = np.stack([shape.image_feat[0] for shape in shapes])
  labels = np.array([shape.label for shape in shapes])
  groups = np.array([FAMILIES[CLASS_NAMES[label]].group for label in labels])
  return features @ features.T, labels, groups


# Geometry.


def area_of(part):
  return geometry.triangle_areas(part.triangles).sum()


def sample(part, seed):
  rng = np.random.default_rng(seed)
  return geometry.sample_triangles(part.triangles, rng, 20_000)[0]


@pytest.mark.parametrize(
  ("part", "area"),
  [
    (geometry.box(1, 2, 3), 22),
    (geometry.cylinder(0.5, 2), 2 * np.pi * 0.5 * 2.5),
    (geometry.cone(3, 4), np.pi * 3 * (3 + 5)),
    (geometry.sphere(0.7), 4 * np.pi * 0.49),
    (geometry.torus(1, 0.25), 4 * np.pi**2 * 0.25),
    (geometry.rod((0, 0, 0), (0, 3, 4), 0.1), 2 * np.pi * 0.1 * 5.1),
  ],
)
def test_areas_of_primitives(part, area):
  # Facets lie within the true surface, hence a few per cent below.
  assert 0.92 * area < area_of(part) < 1.001 * area


def test_sampling_is_uniform_over_area_in_any_prefix():
  # By Archimedes, the heights of uniform points on a sphere are uniform.
  points = sample(geometry.sphere(1), seed=0)
  assert points.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=0.03)
  for prefix in (points[:4000], points):
    share = np.histogram(prefix[:, 1], 8, (-1, 1))[0] / len(prefix)
    np.testing.assert_allclose(share, 1 / 8, atol=0.02)
  tall = sample(geometry.box(1, 9, 1), seed=1)
  on_top = np.isclose(tall[:, 1], 9, atol=1e-4).mean()
  assert on_top == pytest.approx(1 / 38, abs=0.005)


def test_transforms_keep_area_role_and_name():
  part = geometry.box(1, 2, 3).accent("lid")
  moved = part.turn("x", 30).at(1, 2, 3).turn("y", 50).scale(x=-1)
  assert (moved.role, moved.name) == ("accent", "lid")
  assert area_of(moved) == pytest.approx(area_of(part), rel=1e-5)
  # Right-handed: about z, x turns into y.
  corner = geometry.rod((0, 0, 0), (1, 0, 0), 0.01).turn("z", 90)
  np.testing.assert_allclose(corner.triangles.max((0, 1))[1], 1, atol=1e-6)


# Families and objects.


def test_families_are_many_and_fall_into_groups():
  groups = {family.group for family in FAMILIES.values()}
  assert NUM_CLASSES == len(set(CLASS_NAMES)) >= 36
  assert 7 <= len(groups) <= 10
  for group in groups:
    assert sum(f.group == group for f in FAMILIES.values()) >= 4
  with pytest.raises(ValueError, match="chair"):

    @registry.family("furniture")
    def chair(rng):
      return []


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_family_varies_and_shows_every_declared_part(name):
  family = FAMILIES[name]
  drawn = [
    objects.draw_object(family, np.random.default_rng(seed))
    for seed in range(30)
  ]
  seen = {part for obj in drawn for part in obj.description.parts}
  assert seen == set(family.parts)
  assert len({obj.triangles.sum() for obj in drawn}) == len(drawn)
  for obj in drawn:
    corners = obj.triangles.reshape(-1, 3)
    extent = np.ptp(corners, axis=0)
    assert np.isfinite(corners).all()
    assert 0.9 < extent.max() < 1.1
    assert extent.min() > 0.01
    assert np.abs(corners.max(axis=0) + corners.min(axis=0)).max() < 0.12
    assert obj.colors.min() >= 0
    assert obj.colors.max() <= 1


def test_undeclared_part_is_refused():
  part = geometry.box(1, 1, 1).named("handlebar")
  family = registry.Family("crate", "containers", lambda rng: [part])
  with pytest.raises(ValueError, match=r"crate.*handlebar"):
    objects.draw_object(family, np.random.default_rng(0))


def test_points_show_the_described_color():
  close = 0
  for index in range(NUM_CLASSES):
    obj = objects.draw_object(
      FAMILIES[CLASS_NAMES[index]], np.random.default_rng(index)
    )
    _, rgb = obj.sample(np.random.default_rng(0), 512)
    true = objects.COLORS[obj.description.color]
    close += (np.abs(rgb - true).max(axis=1) < 0.2).mean() > 0.1
  assert close >= 0.9 * NUM_CLASSES


# Shapes.


def test_every_shape_can_be_a_record(shapes):
  for index, shape in enumerate(shapes):
    assert records.encode(shape)["xyz"].shape == (64, 3)
    assert shape.label == index % NUM_CLASSES
    assert shape.xyz.dtype == shape.rgb.dtype == np.float32
    assert shape.image_feat.dtype == shape.text_feat.dtype == np.float32
    assert shape.rgb.min() >= 0
    assert shape.rgb.max() <= 1
    assert shape.image_kind == [ImageKind.VIEW] * 3 + [ImageKind.THUMBNAIL]
  assert len({shape.id for shape in shapes}) == len(shapes)
  assert shapes[123].id == "procedural-000123"
  assert synthetic_shape(0, num_views=1).image_kind == [ImageKind.VIEW]


def test_shapes_depend_on_their_arguments_alone():
  forward = [digest(i) for i in range(20)]
  backward = [digest(i) for i in reversed(range(20))]
  assert forward == backward[::-1]
  assert len(set(forward)) == 20
  # A fresh process, whose hash() differs.
  code = "import synthetic; print(synthetic.digest(7))"
  assert int(runs.output_of(code, hash_seed=4242)) == forward[7]


def test_numbers_of_points_and_views_change_neither_object_nor_texts():
  few = synthetic_shape(3)
  many = synthetic_shape(3, num_points=4096, num_views=9)
  assert few.texts == many.texts
  np.testing.assert_array_equal(few.text_feat, many.text_feat)
  centers = few.xyz.mean(axis=0), many.xyz.mean(axis=0)
  np.testing.assert_allclose(*centers, atol=0.08)


def test_the_seed_changes_the_shape():
  one, other = (synthetic_shape(0, seed=seed).xyz for seed in (1, 2))
  assert not np.array_equal(one, other)


@pytest.mark.parametrize(
  "bad", [{"seed": -1}, {"num_points": 1}, {"num_views": 0}]
)
def test_bad_arguments_are_refused(bad):
  with pytest.raises(ValueError, match="needs index"):
    synthetic_shape(0, **bad)
  with pytest.raises(ValueError, match="needs index"):
    synthetic_shape(-1)


# Captions.


def test_texts_are_true_and_of_every_kind():
  kinds, without, total = set(), 0, 4000
  for index in range(total):
    rng = np.random.default_rng(index)
    name = CLASS_NAMES[index % NUM_CLASSES]
    description = objects.Description(
      name, "red", "wooden", "tall", FAMILIES[name].parts
    )
    pairs = texts.draw_texts(description, rng)
    without += not pairs
    for text, kind in pairs:
      assert text.strip() == text != ""
      assert "  " not in text
      said = texts.mentions(text)
      assert ("family", name) in said
      if kind != TextKind.RETRIEVAL:
        assert set(said) <= set(description.concepts())
    kinds.update(kind for _, kind in pairs)
    assert [kind for _, kind in pairs].count(TextKind.RAW) == bool(pairs)
  assert kinds == set(TextKind) - {TextKind.NONE}
  assert 0.02 < without / total < 0.04


def test_mentions_prefers_the_longest_phrase():
  assert texts.mentions("A wine glass, tall & RED; a wine bottle!") == [
    ("family", "goblet"),
    ("size", "tall"),
    ("color", "red"),
    ("family", "bottle"),
  ]
  found = texts.mentions("a snowman with a top hat")
  assert found == [("family", "snowman"), ("part", "top hat")]
  assert texts.mentions("nothing known") == []


# The teacher.


def test_equal_texts_have_equal_features_whatever_the_batch():
  one = TEACHER.text_features(["a red chair"])
  other = SyntheticTeacher(128, seed=0)
  many = other.text_features(["a boat", "a red chair", "a red chair"])
  np.testing.assert_array_equal(one[0], many[1])
  np.testing.assert_array_equal(many[1], many[2])
  assert not np.array_equal(many[0], many[1])
  assert TEACHER.text_features([]).shape == (0, 128)
  reseeded = SyntheticTeacher(128, seed=1).text_features(["a red chair"])
  assert not np.array_equal(one, reseeded)


def test_features_are_unit_vectors(shapes):
  for shape in shapes[:NUM_CLASSES]:
    for features in (shape.image_feat, shape.text_feat):
      np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_similarity_follows_the_hierarchy(cosines):
  cosine, label, group = cosines
  same_label = label[:, None] == label
  same_group = group[:, None] == group
  same = cosine[same_label & ~np.eye(len(label), dtype=bool)].mean()
  related = cosine[same_group & ~same_label].mean()
  unrelated = cosine[~same_group].mean()
  assert same > related + 0.08 > unrelated + 0.16


def test_modality_gap(shapes, cosines):
  cosine, label, group = cosines
  pairs = [s.image_feat[0] @ s.text_feat[0] for s in shapes if s.texts]
  unrelated = cosine[group[:, None] != group].mean()
  same = cosine[label[:, None] == label].mean()
  # Even a true pair is less alike than two images of unrelated classes.
  assert 0.3 < np.mean(pairs) < unrelated - 0.05 < same - 0.3


@pytest.mark.parametrize(("embed_dim", "seed"), [(128, 0), (128, 1), (512, 2)])
def test_zero_shot_accuracy_is_high_but_not_perfect(embed_dim, seed):
  teacher = SyntheticTeacher(embed_dim, seed=seed)
  classifier = teacher.class_features(CLASS_NAMES)
  assert classifier.shape == (NUM_CLASSES, embed_dim)
  correct = []
  for index in range(10 * NUM_CLASSES):
    rng = np.random.default_rng((seed, index))
    name = CLASS_NAMES[index % NUM_CLASSES]
    description = objects.Description(name, "red", "metal")
    image = teacher.image_features(description, 2, rng)
    correct.append((image @ classifier.T).argmax(axis=1) == index % NUM_CLASSES)
  assert 0.90 < np.mean(correct) < 0.98


def test_class_features_know_synonyms_and_refuse_strangers():
  sofa, couch, chair = TEACHER.class_features(["sofa", "couch", "chair"])
  assert sofa @ couch > 0.95 > sofa @ chair + 0.1
  with pytest.raises(BadInput, match="platypus"):
    TEACHER.class_features(["platypus"])
  with pytest.raises(BadInput, match="red"):
    TEACHER.class_features(["red"])


def test_teacher_refuses_bad_arguments():
  with pytest.raises(ValueError, match="embed_dim"):
    SyntheticTeacher(4)
  with pytest.raises(ValueError, match="seed"):
    SyntheticTeacher(128, seed=-1)
