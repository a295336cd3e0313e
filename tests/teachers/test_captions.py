"""Captions by tiny models with random weights, against a search by hand."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import transformers
from hub import COMMITS
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from mrd_jax.errors import BadInput
from mrd_jax.teachers import captions
from mrd_jax.teachers.captions import Captioner

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "<image>"]
PAD, END, START, IMAGE = (
  SPECIAL.index(word) for word in ("[PAD]", "[SEP]", "[BOS]", "<image>")
)
WORDS = ["a", "red", "blue", "chair", "table", "lamp", "car", "of", "with"]
WORDS += ["shape", "green", "big"]
SMALL = {
  "hidden_size": 16,
  "intermediate_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
}
SIDE = 24
VISION = SMALL | {"image_size": SIDE, "patch_size": 8}
TEXT = {
  "vocab_size": len(SPECIAL) + len(WORDS),
  "max_position_embeddings": 64,
  "pad_token_id": PAD,
  "bos_token_id": START,
  "eos_token_id": END,
}
MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])


def save(folder: Path, model) -> Path:
  """Random weights, so large that captions depend on the image."""
  torch.manual_seed(4)
  for name, parameter in model.named_parameters():
    torch.nn.init.normal_(parameter, std=0.3)
    if "norm" in name.lower() and name.endswith("weight"):
      torch.nn.init.ones_(parameter)
    if "crossattention" in name and name.endswith("weight"):
      parameter.data *= 3
  model.save_pretrained(folder)
  words = [*SPECIAL, *WORDS]
  tokenizer = Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token="[PAD]",
    unk_token="[UNK]",
    cls_token="[CLS]",
    sep_token="[SEP]",
    bos_token="[BOS]",
    eos_token="[SEP]",
    additional_special_tokens=["<image>"],
  ).save_pretrained(folder)
  transformers.BlipImageProcessorPil(
    size={"height": SIDE, "width": SIDE},
    image_mean=MEAN.tolist(),
    image_std=STD.tolist(),
  ).save_pretrained(folder)
  return folder


def blip(folder: Path) -> Path:
  text = SMALL | TEXT | {"encoder_hidden_size": 16, "sep_token_id": END}
  config = transformers.BlipConfig(
    text_config=text | {"projection_dim": 16},
    vision_config=VISION,
    projection_dim=16,
  )
  return save(folder, transformers.BlipForConditionalGeneration(config))


def blip2(folder: Path) -> Path:
  opt = {"word_embed_proj_dim": 16, "ffn_dim": 32, "model_type": "opt"}
  config = transformers.Blip2Config(
    vision_config=VISION,
    qformer_config=SMALL
    | {"encoder_hidden_size": 16, "vocab_size": TEXT["vocab_size"]},
    text_config=SMALL | TEXT | opt,
    num_query_tokens=4,
    image_token_index=IMAGE,
  )
  return save(folder, transformers.Blip2ForConditionalGeneration(config))


def git(folder: Path) -> Path:
  config = transformers.GitConfig(vision_config=VISION, **SMALL, **TEXT)
  return save(folder, transformers.GitForCausalLM(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  return blip(tmp_path_factory.mktemp("blip"))


def make_images() -> list[np.ndarray]:
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
  plain = np.uint8([[255, 0, 0], [0, 0, 255], [255, 255, 255]])
  return [*noise, *(np.full((SIDE, SIDE, 3), c, np.uint8) for c in plain)]


def by_hand(folder: Path, image: np.ndarray, longest: int) -> str:
  """One image, no cache of keys, the likeliest token until the end."""
  model = transformers.BlipForConditionalGeneration.from_pretrained(folder)
  pixels = ((image / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
  tokens = [START]
  with torch.no_grad():
    seen = model.vision_model(pixel_values=torch.tensor(pixels).float())[0]
    while len(tokens) <= longest:
      logits = model.text_decoder(
        input_ids=torch.tensor([tokens]),
        encoder_hidden_states=seen,
        use_cache=False,
      ).logits
      tokens.append(int(logits[0, -1].argmax()))
      if tokens[-1] == END:
        break
  words = [*SPECIAL, *WORDS]
  return " ".join(words[t] for t in tokens if words[t] in WORDS)


@pytest.fixture
def short(monkeypatch):
  """Captions of at most six tokens."""
  monkeypatch.setattr(captions, "MAX_NEW_TOKENS", 6)


@pytest.mark.parametrize("longest", [1, 3, 8])
def test_captions_are_those_of_a_greedy_search(folder, longest, monkeypatch):
  monkeypatch.setattr(captions, "MAX_NEW_TOKENS", longest)
  captioner, images = Captioner(folder), make_images()
  found = captioner.caption(images)
  assert found == [by_hand(folder, image, longest) for image in images]
  assert captioner.caption(images) == found
  if longest == 8:
    assert len(set(found)) >= 4  # they depend on the image
    assert len({len(text.split()) for text in found}) >= 3  # and on the end


@pytest.mark.parametrize("make", [blip, blip2, git])
def test_the_batch_changes_nothing(tmp_path, make, short, monkeypatch):
  captioner = Captioner(make(tmp_path / "model"))
  images = make_images()
  images[3] = images[3][:, :17]  # any size, also
  images[4] = images[4][:3]
  found = []
  for size in (1, 4, 100):
    monkeypatch.setattr(captions, "BATCH_SIZE", size)
    found.append(captioner.caption(images))
  assert found[0] == found[1] == found[2]
  assert len(found[0]) == len(images) and len(set(found[0])) > 1
  assert {w for text in found[0] for w in text.split()} <= {*WORDS, "[UNK]"}
  assert captioner.caption([]) == []


@pytest.mark.parametrize("option", [{"do_sample": True}, {"num_beams": 9}])
def test_the_model_s_own_options_are_off(tmp_path, option, short):
  model, images = git(tmp_path / "model"), make_images()
  expected = Captioner(model).caption(images)
  file = model / "generation_config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | option))
  assert Captioner(model).caption(images) == expected


def test_an_image_of_three_rows(folder):
  captioner = Captioner(folder)
  images = make_images()[6:]  # of one colour each
  expected = captioner.caption(images)
  assert len(set(expected)) > 1
  assert captioner.caption([image[:3] for image in images]) == expected


def test_a_caption_is_one_line(folder, monkeypatch):
  captioner = Captioner(folder)
  monkeypatch.setattr(
    captioner._tokenizer, "batch_decode", lambda *_, **__: [" a red\nchair \n"]
  )
  assert captioner.caption(make_images()[:1]) == ["a red chair"]


def without_a_weight(model):
  tensors = load_file(model / "model.safetensors")
  tensors.pop(next(name for name in tensors if "crossattention" in name))
  save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def with_a_pickle(model):
  (model / "model.safetensors").unlink()
  torch.save({}, model / "pytorch_model.bin")


def with_code(model):
  said = json.loads((model / "config.json").read_text())
  said |= {
    "model_type": "other",
    "auto_map": {
      "AutoConfig": "payload.A",
      "AutoModelForCausalLM": "payload.B",
    },
  }
  (model / "config.json").write_text(json.dumps(said))
  (model / "payload.py").write_text("raise SystemExit('executed')")


def of_another_kind(model):
  config = transformers.BertConfig(**SMALL, vocab_size=20)
  save(model, transformers.BertModel(config))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (
      without_a_weight,
      r"lacks 1 weights, for example \S+crossattention.*: it is not a Blip",
    ),
    (with_a_pickle, "cannot be used as an image-to-text model.*safetensors"),
    (of_another_kind, "cannot be used as an image-to-text model"),
    (with_code, "cannot be used as .*code of its own, which is never run"),
    *(
      (lambda model, name=name: (model / name).unlink(), "cannot be used as an")
      for name in (
        *("config.json", "preprocessor_config.json", "model.safetensors"),
      )
    ),
  ],
)
def test_models_that_cannot_be_used(folder, tmp_path, damage, message):
  model = shutil.copytree(folder, tmp_path / "model")
  damage(model)
  with pytest.raises(BadInput, match=rf"^[^\n]*model {message}"):
    Captioner(model)


def test_a_model_that_wants_a_question(folder, monkeypatch):
  captioner = Captioner(folder)

  def generate(**_):
    raise ValueError("You have to specify\ninput_ids")

  monkeypatch.setattr(captioner._model, "generate", generate)
  with pytest.raises(BadInput, match=r"cannot caption .* specify input_ids\)"):
    captioner.caption(make_images())


def test_without_pytorch(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ModuleNotFoundError, match="torch"):
    Captioner(folder)


def test_a_model_of_the_hub(hub, folder, tmp_path):
  remote = tmp_path / "remote"
  shutil.copytree(folder, remote)
  (remote / "pytorch_model.bin").write_bytes(b"a pickle")
  hub.repositories["user/blip", COMMITS["main"]] = remote
  images = make_images()
  expected = Captioner(folder).caption(images)
  for _ in range(2):  # the second time without network
    assert Captioner("user/blip").caption(images) == expected
    assert all(".bin" not in path for _, path in hub.asked())
    hub.stop()
  assert not list((tmp_path / "home").rglob("*.bin"))


def test_no_network(hub):
  hub.stop()
  with pytest.raises(
    BadInput,
    match=r"^user/blip is neither .* hub: ConnectError: .*refused.* put config",
  ) as error:
    Captioner("user/blip")
  assert "\n" not in str(error.value)
