"""Holds the texts of the published systems, and where their text towers are."""

from mrd_jax.zoo.system import Hub, Page

# ULIP's 64 templates, "modelnet40_64" of its data/templates.json, which Uni3D
# has too.  Copyright (c) 2022, Salesforce.com, Inc.; BSD 3-Clause.
ULIP = tuple(
  """\
a point cloud model of {}.
There is a {} in the scene.
There is the {} in the scene.
a photo of a {} in the scene.
a photo of the {} in the scene.
a photo of one {} in the scene.
itap of a {}.
itap of my {}.
itap of the {}.
a photo of a {}.
a photo of my {}.
a photo of the {}.
a photo of one {}.
a photo of many {}.
a good photo of a {}.
a good photo of the {}.
a bad photo of a {}.
a bad photo of the {}.
a photo of a nice {}.
a photo of the nice {}.
a photo of a cool {}.
a photo of the cool {}.
a photo of a weird {}.
a photo of the weird {}.
a photo of a small {}.
a photo of the small {}.
a photo of a large {}.
a photo of the large {}.
a photo of a clean {}.
a photo of the clean {}.
a photo of a dirty {}.
a photo of the dirty {}.
a bright photo of a {}.
a bright photo of the {}.
a dark photo of a {}.
a dark photo of the {}.
a photo of a hard to see {}.
a photo of the hard to see {}.
a low resolution photo of a {}.
a low resolution photo of the {}.
a cropped photo of a {}.
a cropped photo of the {}.
a close-up photo of a {}.
a close-up photo of the {}.
a jpeg corrupted photo of a {}.
a jpeg corrupted photo of the {}.
a blurry photo of a {}.
a blurry photo of the {}.
a pixelated photo of a {}.
a pixelated photo of the {}.
a black and white photo of the {}.
a black and white photo of a {}
a plastic {}.
the plastic {}.
a toy {}.
the toy {}.
a plushie {}.
the plushie {}.
a cartoon {}.
the cartoon {}.
an embroidered {}.
the embroidered {}.
a painting of the {}.
a painting of a {}.
""".splitlines()
)

# ReCon's, models/CrossModal.py (3e20fa9; an older one says "white context").
RECON = tuple(
  f"{before}{{}}{after}"
  for after in (".", " with white background.", " with black context.")
  for before in (
    "",
    "A ",
    *(
      f"A {kind} of {article}"
      for kind in (
        "model",
        "image",
        "3D model",
        "rendering model",
        "point cloud",
        "point cloud model",
        "3D rendering model",
        "rendering image",
        "3D rendering image",
      )
      for article in ("", "a ")
    ),
  )
)

BIG_G_SPACE = "OpenCLIP ViT-bigG-14, laion2b_s39b_b160k"
BIG_G = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
VIT_B_32 = "openai/clip-vit-base-patch32"
EVA02_E_14_PLUS = Hub(
  "timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k",
  "open_clip_model.safetensors",
)
SLIP = Page("https://github.com/facebookresearch/SLIP", "slip_base_100ep.pt")
