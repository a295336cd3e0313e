"""Describes accelerators to their compilers, without having any.

XLA compiles for a GPU that it knows from a description alone (public figures of
the card), and libtpu knows the TPUs.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies

from mrd_jax.errors import BadInput
from mrd_jax.parallel import devices

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Target:
  """An accelerator.

  Attributes:
    memory: Bytes.
    bandwidth: Bytes a second that a good kernel reaches.
    peaks: Operations a second that one reaches, as `hlo.Kernel.operations`.
    shares: Of the memory, that JAX's pool may take: by default, and as
      XLA_PYTHON_CLIENT_MEM_FRACTION in our launchers.
    launch: Seconds from one kernel to the next.
    capability: CUDA's; 0 is a TPU.
    chip: Of XLA's description of a GPU, what differs between them.
  """

  memory: int
  bandwidth: float
  peaks: dict[str, float]
  shares: tuple[float, ...] = (0.75, 0.92)
  launch: float = 2e-6
  capability: int = 0
  chip: dict[str, Any] = dataclasses.field(default_factory=dict)


# Peaks are two thirds of the data sheets' for products, bandwidths nine tenths.
_HOPPER = {
  "capability": 9,
  "peaks": {"bf16": 650e12, "tf32": 325e12, "f32": 44e12, "vector": 30e12},
}
_H100 = {
  "name": "NVIDIA H100 80GB HBM3",
  "bandwidth": 3_352_320_000_000,
  "cores": 132,
  "shared": 233_472,
  "l2": 52_428_800,
  "clock": 1.98,
  "matrix_clock": 1.83,
  "bf16": 1024,
  "fpus": 128,
}
TARGETS = {
  "h100": Target(84_942_979_072, 3.0e12, chip=_H100, **_HOPPER),
  "h200": Target(
    150_754_820_096,
    4.3e12,
    chip=_H100 | {"name": "NVIDIA H200", "bandwidth": 4_800_000_000_000},
    **_HOPPER,
  ),
  "a100": Target(
    85_097_971_712,
    1.8e12,
    {"bf16": 205e12, "tf32": 102e12, "f32": 12.9e12, "vector": 9.7e12},
    capability=8,
    chip={
      "name": "NVIDIA A100-SXM4-80GB",
      "bandwidth": 2_039_000_000_000,
      "cores": 108,
      "shared": 167_936,
      "l2": 41_943_040,
      "clock": 1.41,
      "matrix_clock": 1.41,
      "bf16": 512,
      "fpus": 64,
    },
  ),
  # A product of float32 at full precision is six of bfloat16.
  "v5p": Target(
    102_803_439_616,
    2.5e12,
    {"bf16": 302e12, "tf32": 302e12, "f32": 50e12, "vector": 14e12},
    shares=(1.0,),
    launch=0.0,
  ),
}


def description(target: Target) -> str:
  """XLA's GpuTargetConfigProto, from the public figures of the card."""
  chip = target.chip

  def rates(kind: str, clock: float, rows: Sequence[tuple[int, int, int]]):
    # Keys are XLA's PrimitiveType: 4 s32, 10 f16, 11 f32, 12 f64, 16 bf16.
    infos = "".join(
      f"rate_infos {{ key: {key} value {{ clock_rate_ghz: {clock} "
      f"units_per_core: {units} ops_per_clock: {ops} }} }} "
      for key, units, ops in rows
    )
    return f"{kind}_unit_description {{ {infos} }}"

  fpus, bf16 = chip["fpus"], chip["bf16"]
  scalar = [(4, 64, 1), (8, 64, 1), (10, fpus, 2), (11, fpus, 1)]
  scalar += [(12, fpus // 2, 1), (16, fpus, 2)]
  matrix = [
    (key, 4, 2 * bf16 if target.capability < 9 else bf16) for key in (2, 6)
  ]
  if target.capability >= 9:
    matrix = [
      (key, 4, bf16) for key in (2, 6, 19, 20, 23, 24, 25, 28, 29, 33, 35, 36)
    ]
  matrix += [
    (10, 4, bf16 // 2),
    (11, 4, bf16 // 4),
    (12, 4, 32),
    (16, 4, bf16 // 2),
  ]
  major = target.capability
  feature = "feature_extension: ACCELERATED_FEATURES" if major == 9 else ""
  return f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {chip["shared"]}
  shared_memory_per_block_optin: {chip["shared"] - 1024}
  threads_per_core_limit: 2048 core_count: {chip["cores"]}
  fpus_per_core: {fpus} memory_bandwidth: {chip["bandwidth"]}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 l2_cache_size: {chip["l2"]}
  clock_rate_ghz: {chip["clock"]} device_memory_size: {target.memory}
  cuda_compute_capability {{ major: {major} {feature} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  {rates("scalar", chip["clock"], scalar)}
  {rates("matrix", chip["matrix_clock"], matrix)}
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" device_address_bits: 64
  platform_version: "Compute Capability {major}.0" ecc_enabled: true
  pcie_bandwidth: 34359738368 name: "{chip["name"]}"
  driver_version: "13.0.0" runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
  device_interconnect_info {{ active_links: 18 }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip["name"]}"
"""


def topology(name: str, count: int) -> Sequence[Any]:
  """Devices of a topology that XLA compiles for without having one."""
  target = TARGETS[name]
  needed = (
    ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc")
    if target.capability
    else ("libtpu",)
  )
  for package in needed:
    try:
      found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
      found = None
    if not found:
      raise BadInput(
        f"--targets: compiling for {name} needs {package}, which is not "
        "installed: pip install -e .[aot]"
      )
  if not target.capability:
    hosts = -(-count // 4)  # a host has four chips
    whole = topologies.get_topology_desc(f"{name}:2x2x{hosts}", platform="tpu")
    return whole.devices[:count]
  return topologies.get_topology_desc(
    f"1x1x{count}",
    platform="cuda",
    target_config=description(target),
    topology=f"1x1x{count}",
  ).devices


@contextlib.contextmanager
def standing_in(target: Target) -> Iterator[None]:
  """Answers for an absent device what tracing and lowering ask of it.

  JAX asks the devices at hand for cuDNN's version and for their architecture,
  and the encoder for the forms that they can run.
  """
  from jax._src.cudnn import fused_attention_stablehlo as cudnn
  from jax.experimental.mosaic.gpu import core, utils

  major = target.capability
  answers = [
    (jax, "default_backend", "gpu" if major else "tpu"),
    (cudnn, "check_cudnn_version", 91000),
    (devices, "cuda_capability", float(major)),
  ]
  # Versions of JAX have it in one of the two, or in both.
  answers += [
    (mosaic, "_infer_arch", (major, 0))
    for mosaic in (core, utils)
    if hasattr(mosaic, "_infer_arch")
  ]
  with contextlib.ExitStack() as stack:
    for module, name, answer in answers:
      stack.enter_context(mock.patch.object(module, name, return_value=answer))
    for name, holds in (
      ("check_compute_capability", lambda asked: float(asked) <= major),
      ("is_cuda_compute_capability_equal", lambda asked: float(asked) == major),
    ):
      stack.enter_context(mock.patch.object(cudnn, name, holds))
    yield


def compiler_options(target: Target) -> dict[str, Any]:
  """What XLA needs to be told in order to compile without the device."""
  if not target.capability:
    return {}
  cuda = importlib.util.find_spec("nvidia.cuda_nvcc")
  assert cuda and cuda.submodule_search_locations
  return {
    "xla_gpu_cuda_data_dir": cuda.submodule_search_locations[0],
    # Choosing among kernels would measure them on a device; untuned, some of
    # Triton's products do not compile.  So products are cuBLAS's.
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
  }
