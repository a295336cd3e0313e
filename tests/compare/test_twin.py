"""The twin against what can be worked out on paper. No JAX here."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import math

from mrd_jax.compare import torch_losses as losses
from mrd_jax.compare import torch_optimizer as optimizer
from mrd_jax.convert import pointbert_modules as pointbert

RELATION_TERMS = ("intra/PP-II", "intra/PP-TT") + tuple(
  f"cross/{pair}" for pair in ("PI-TI", "PI-IT", "PT-IT", "PT-TI")
)
PAIRS = ("intra", "cross_image", "cross_text")
ALL = pytest.mark.parametrize("representation", losses.REPRESENTATIONS)
OPTIONS = (
  {},
  {"intra_diagonal": False, "cross_scale": 5.0, "normalise_intra": False},
  {"cross_form": "matched", "weights": "fixed"},
)


def on_x_axis(*xs):
  """One cloud (1, N, 3) with these x coordinates and y = z = 0."""
  return torch.tensor([[[float(x), 0.0, 0.0] for x in xs]])


def batch(size=5, dim=4):
  """Arguments of mrd_loss in float64, all samples with text."""
  rng = torch.Generator().manual_seed(0)

  def normal(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)

  return {
    "point": normal(size, dim).requires_grad_(),
    "image": normal(size, dim),
    "text": normal(size, dim),
    "has_text": torch.ones(size, dtype=torch.bool),
    "logit_scale": torch.tensor(1.3, dtype=torch.float64).requires_grad_(),
    "dynamic_weights": {name: normal(2).requires_grad_() for name in PAIRS},
  }


def tiny(depth=2):
  """A model in float64 and eval mode."""
  ppat = pointbert.PointPatchTransformer(64, depth, 2, 32, 8, 6, 0.5, 4)
  return pointbert.Projected(ppat, torch.nn.Linear(64, 5)).double().eval()


def clouds(size, count):
  """xyz (size, count, 3) and features (size, count, 6), float64."""
  torch.manual_seed(0)
  features = torch.rand(size, count, 6, dtype=torch.float64)
  return features[..., :3].clone(), features


def test_farthest_points_on_a_line():
  # From 3 the farthest is 10 (49). Then 0 and both 6 are 9 away: the lowest
  # index, then the first 6. Its copy is 0 away, as are all: point 0 again.
  xyz = on_x_axis(3, 0, 10, 6, 6)
  sample = pointbert.farthest_point_sample
  assert sample(xyz, 6).tolist() == [[0, 2, 1, 3, 0, 0]]
  assert sample(xyz, 5, torch.tensor([3])).tolist() == [[0, 2, 1, 0, 0]]
  assert sample(xyz, 2, torch.tensor([1])).tolist() == [[0, 0]]


def test_ball_query_on_a_line():
  # From 3 with radius 3: 0 and both 6 are exactly on the border, thus inside.
  xyz = on_x_axis(3, 0, 10, 6, 6)
  centers = on_x_axis(3, 10, 6)
  query = pointbert.ball_query
  rows = query(xyz, centers, 3.0, 3)[0].tolist()
  assert rows == [[0, 1, 3], [2, 2, 2], [0, 3, 4]]
  assert query(xyz, centers[:, :1], 3.0, 6).tolist() == [[[0, 1, 3, 4, 0, 0]]]
  # Padding repeats the row's first index, which need not be 0.
  assert query(xyz, centers[:, 2:], 1.0, 4).tolist() == [[[3, 4, 3, 3]]]
  few = query(xyz, centers[:, :1], 3.0, 3, torch.tensor([3]))
  assert few.tolist() == [[[0, 1, 0]]]
  with pytest.raises(ValueError, match="no point within"):
    query(xyz, on_x_axis(100), 3.0, 3)


def test_points_beyond_num_points_do_not_exist():
  xyz, features = clouds(2, 12)
  net = tiny()
  whole = net(xyz, features, torch.tensor([12, 4]))
  torch.testing.assert_close(whole[:1], net(xyz[:1], features[:1]))
  torch.testing.assert_close(whole[1:], net(xyz[1:, :4], features[1:, :4]))
  with pytest.raises(ValueError, match="num_points"):
    net(xyz, features, torch.tensor([13, 4]))


def test_encoder_dtypes_agree_and_gradients_flow():
  xyz, features = clouds(2, 16)
  net = tiny()
  exact = net(xyz, features)
  assert exact.dtype == torch.float64 and exact.shape == (2, 5)
  exact.square().sum().backward()
  assert all(p.grad is not None for p in net.parameters())
  rounded = net.float()(xyz.float(), features.float())
  torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-5)


def test_contrast_by_hand():
  eye = torch.eye(3, dtype=torch.float64)
  scale = torch.tensor(2.0, dtype=torch.float64)
  valid = torch.tensor([True, False, True])
  loss = losses.contrastive(eye, eye, scale, valid)
  assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
  assert losses.contrastive(eye, eye, scale, ~valid).item() == 0
  assert losses.contrastive(eye, eye, scale, valid & ~valid).item() == 0


def test_discrepancies_by_hand():
  pairs = torch.ones(1, 2, dtype=torch.bool)
  p, q = torch.tensor([[1 / 2, 1 / 2]]), torch.tensor([[3 / 4, 1 / 4]])
  loss = losses.jeffrey(p.log(), q.log(), pairs)
  assert loss.item() == pytest.approx(math.log(3) / 4)
  assert losses.mse(p, q, pairs).item() == pytest.approx(1 / 16)

  # To the teacher 2 is nearer than 0 and 1, which it ties. d(2,0) = -.3 and
  # d(2,1) = .2: hinges .4, 0.
  pairs = torch.ones(1, 3, dtype=torch.bool)
  student = torch.tensor([[0.0, 0.5, 0.3]])
  teacher = torch.tensor([[1.0, 1.0, 0.5]])
  loss = losses.margin_ranking(student, teacher, pairs, 0.1)
  assert loss.item() == pytest.approx(0.4 / 2)
  assert losses.margin_ranking(student, teacher, student != 0.3, 1).item() == 0
  assert losses.margin_ranking(student, teacher, student == 0, 0.6).item() == 0


def test_relations_by_hand():
  a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
  distances = losses.relation_euclidean(a, a)
  assert distances[0].tolist() == pytest.approx([0, math.sqrt(2), 2])
  off = ~torch.eye(3, dtype=torch.bool)
  divided = losses.divide_by_mean(distances, off)
  assert divided[off].mean().item() == pytest.approx(1)
  row = losses.relation_log_similarity(a, a, 1.0, off).exp()[0]
  near = 1 / (1 + math.exp(-1))
  assert row.tolist() == pytest.approx([0, near, 1 - near])
  # A distance of 0 has gradient 0.
  grown = a.clone().requires_grad_()
  losses.relation_euclidean(grown, a).diagonal().sum().backward()
  assert not grown.grad.any()


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("representation", ["euclidean", "similarity"])
def test_student_like_the_teachers_costs_nothing(representation, diagonal):
  given = batch()
  given["image"] = given["text"] = 2 * given["point"].detach()
  given.update(representation=representation, intra_diagonal=diagonal)
  _, terms = losses.mrd_loss(**given)
  for name in RELATION_TERMS:
    assert terms[name].item() == pytest.approx(0, abs=1e-12), name


@pytest.mark.parametrize("options", OPTIONS)
@ALL
def test_gradients(representation, options):
  given = batch()
  given["has_text"][1] = False
  inputs = (given["point"], given["logit_scale"])
  inputs += tuple(given["dynamic_weights"].values())
  # Numerically, a stop-gradient would look like an error: scales are fixed.
  options = dict(options, representation=representation)

  def loss(point, logit_scale, *logits):
    given.update(point=point, logit_scale=logit_scale)
    given["dynamic_weights"] = dict(zip(PAIRS, logits, strict=True))
    return losses.mrd_loss(**given, **options)[0]

  torch.autograd.gradcheck(loss, inputs)


def test_relations_leave_scale_and_teachers_alone():
  given = batch()
  for name in ("image", "text"):
    given[name].requires_grad_()
  of_contrast = {"intra_scale": 0.0, "cross_scale": 0.0}
  _, terms = losses.mrd_loss(
    **given, **of_contrast, representation="similarity"
  )
  (terms["intra"] + terms["cross"]).backward()
  for name in ("logit_scale", "image", "text"):
    assert given[name].grad is None, name
  assert given["point"].grad.abs().min() > 0


def test_weights_of_equation_9():
  given = {**batch(), "representation": "similarity"}
  a, b, c = (given["dynamic_weights"][pair].softmax(0) for pair in PAIRS)
  loss, terms = losses.mrd_loss(**given)
  ii, tt, pi_ti, pi_it, pt_it, pt_ti = (terms[n] for n in RELATION_TERMS)
  intra = a[0] * ii + a[1] * tt
  cross = b[0] * pi_ti + b[1] * pi_it + c[0] * pt_it + c[1] * pt_ti
  contrast = terms["contrast/image"] + terms["contrast/text"]
  torch.testing.assert_close(loss, contrast + 3 * (intra + cross))

  _, matched = losses.mrd_loss(**given, cross_form="matched", intra=False)
  torch.testing.assert_close(matched["cross"], b[0] * pi_ti + b[1] * pt_it)
  fixed, _ = losses.mrd_loss(**given, cross=False, weights="fixed", lam=2)
  torch.testing.assert_close(fixed, contrast + ii + tt)
  for teacher, term in (("image", ii), ("text", tt)):
    _, one = losses.mrd_loss(**given, intra_teacher=teacher)
    torch.testing.assert_close(one["intra"], term)


@ALL
def test_samples_without_text(representation):
  given = batch()
  keep = torch.tensor([0, 2, 3])
  given["has_text"][[1, 4]] = False
  given["text"][[1, 4]] = float("nan")  # never looked at
  loss, terms = losses.mrd_loss(**given, representation=representation)
  loss.backward()
  assert given["point"].grad.isfinite().all()

  for name in ("point", "image", "text", "has_text"):
    given[name] = given[name][keep]
  _, alone = losses.mrd_loss(**given, representation=representation)
  whole_batch = {"contrast/image", "intra/PP-II"}
  for name in ("contrast/image", "contrast/text", *RELATION_TERMS):
    same = torch.allclose(terms[name], alone[name], rtol=1e-12)
    assert same == (name not in whole_batch), name


@pytest.mark.parametrize("texts", [0, 1])
@ALL
def test_hardly_any_text(representation, texts):
  given = batch()
  given["has_text"][texts:] = False
  loss, terms = losses.mrd_loss(**given, representation=representation)
  loss.backward()
  for name in ("contrast/text", *RELATION_TERMS[1:]):
    assert terms[name].item() == 0, name
  assert given["point"].grad.isfinite().all()


def test_parameter_groups():
  net = tiny(depth=1)
  logits = {"intra": torch.zeros(2, requires_grad=True)}
  params = dict(net.named_parameters())
  params["logit_scale"] = torch.tensor(2.66, requires_grad=True)
  made = optimizer.make_optimizer(params, logits, lr=1e-3, dynamic_lr=1e-4)
  groups = {g["name"]: g for g in made.param_groups}
  kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
  decayed = [id(m.weight) for m in net.modules() if isinstance(m, kinds)]
  assert sorted(decayed) == sorted(map(id, groups["decay"]["params"]))
  assert len(groups["no_decay"]["params"]) == len(params) - len(decayed)
  rates = [(g["lr"], g["weight_decay"]) for g in made.param_groups]
  assert rates == [(1e-3, 0.05), (1e-3, 0.0), (1e-4, 0.0)]
