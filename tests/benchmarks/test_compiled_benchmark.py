"""The account of a compiled program, counted by hand."""

import dataclasses
import importlib.util
import json

import pytest

from benchmarks import compiled, hlo, targets
from mrd_jax.errors import BadInput

# As XLA for GPUs writes it: a loop of five trips (a product, the addition of a
# row, a step of the counter), an update in place, a gather, attention forward and
# backward, a product of float32 and an all-reduce.
TEXT = """
HloModule jit_step, is_scheduled=true

%fused_add (p0: bf16[32,64], p1: bf16[5,32,64], p2: s32[]) -> bf16[32,64] {
  %p0 = bf16[32,64]{1,0} parameter(0)
  %p1 = bf16[5,32,64]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = bf16[1,32,64]{2,1,0} dynamic-slice(%p1, %p2, %zero, %zero), dynamic_slice_sizes={1,32,64}
  %flat = bf16[32,64]{1,0} bitcast(%row)
  ROOT %sum = bf16[32,64]{1,0} add(%p0, %flat), metadata={op_name="jit(step)/jvp(E)/block_0/attention/add"}
}

%fused_next (i: s32[]) -> s32[] {
  %i = s32[] parameter(0)
  %one = s32[] constant(1)
  ROOT %next = s32[] add(%i, %one)
}

%body (c: (s32[], bf16[32,64], bf16[64,64], bf16[5,32,64])) -> (s32[], bf16[32,64], bf16[64,64], bf16[5,32,64]) {
  %c = (s32[], bf16[32,64]{1,0}, bf16[64,64]{1,0}, /*index=3*/bf16[5,32,64]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%c), index=0
  %x.1 = bf16[32,64]{1,0} get-tuple-element(%c), index=1
  %w.1 = bf16[64,64]{1,0} get-tuple-element(%c), index=2
  %rows = bf16[5,32,64]{2,1,0} get-tuple-element(%c), index=3
  %gemm = (bf16[32,64]{1,0}, s8[33554432]{0}) custom-call(%x.1, %w.1), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/jvp(PointBERT)/point_net/dot_general"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]}}}
  %y = bf16[32,64]{1,0} get-tuple-element(%gemm), index=0
  %add.remat = bf16[32,64]{1,0} fusion(%y, %rows, %i.1), kind=kLoop, calls=%fused_add, metadata={op_name="jit(step)/PointBERT/tokenizer/add"}
  %step.1 = s32[] fusion(%i.1), kind=kLoop, calls=%fused_next
  ROOT %out = (s32[], bf16[32,64]{1,0}, bf16[64,64]{1,0}, /*index=3*/bf16[5,32,64]{2,1,0}) tuple(%step.1, %add.remat, %w.1, %rows)
}

%condition (c.1: (s32[], bf16[32,64], bf16[64,64], bf16[5,32,64])) -> pred[] {
  %c.1 = (s32[], bf16[32,64]{1,0}, bf16[64,64]{1,0}, /*index=3*/bf16[5,32,64]{2,1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%c.1), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i.2, %five), direction=LT
}

%fused_update (p0.1: f32[100,64]) -> f32[100,64] {
  %p0.1 = f32[100,64]{1,0} parameter(0)
  %three = f32[] constant(3)
  %ones = f32[1,64]{1,0} broadcast(%three), dimensions={}
  %at = s32[] constant(7)
  ROOT %put = f32[100,64]{1,0} dynamic-update-slice(%p0.1, %ones, %at, %at), metadata={op_name="jit(step)/optimizer/scatter"}
}

%fused_gather (p0.2: f32[1000,4], p1.2: s32[10]) -> f32[10,4] {
  %p0.2 = f32[1000,4]{1,0} parameter(0)
  %p1.2 = s32[10]{0} parameter(1)
  ROOT %taken = f32[10,4]{1,0} gather(%p0.2, %p1.2), offset_dims={1}, metadata={op_name="jit(step)/input/gather"}
}

%add_f32 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %ab = f32[] add(%a, %b)
}

ENTRY %main (w: bf16[64,64], rows.1: bf16[5,32,64], u: f32[32,64], v: f32[64,16], t: f32[100,64], cloud: f32[1000,4], some: s32[10], q: bf16[2,6,3,64], x: bf16[32,64]) -> f32[32,16] {
  %w = bf16[64,64]{1,0} parameter(0)
  %rows.1 = bf16[5,32,64]{2,1,0} parameter(1)
  %u = f32[32,64]{1,0} parameter(2)
  %v = f32[64,16]{1,0} parameter(3)
  %t = f32[100,64]{1,0} parameter(4)
  %cloud = f32[1000,4]{1,0} parameter(5)
  %some = s32[10]{0} parameter(6)
  %q = bf16[2,6,3,64]{3,2,1,0} parameter(7)
  %x = bf16[32,64]{1,0} parameter(8)
  %start = s32[] constant(0)
  %x0 = bf16[32,64]{1,0} copy(%x)
  %init = (s32[], bf16[32,64]{1,0}, bf16[64,64]{1,0}, /*index=3*/bf16[5,32,64]{2,1,0}) tuple(%start, %x0, %w, %rows.1)
  %loop = (s32[], bf16[32,64]{1,0}, bf16[64,64]{1,0}, /*index=3*/bf16[5,32,64]{2,1,0}) while(%init), condition=%condition, body=%body, metadata={op_name="jit(step)/PointBERT/tokenizer/while"}KNOWN
  %put.1 = f32[100,64]{1,0} fusion(%t), kind=kLoop, calls=%fused_update
  %taken.1 = f32[10,4]{1,0} fusion(%cloud, %some), kind=kLoop, calls=%fused_gather
  %forward = (bf16[2,6,3,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(step)/jvp(PointBERT)/block_3/attention/f"}, backend_config={"cudnn_fmha_backend_config":{"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "3", "6", "6"]}}}
  %backward = (bf16[2,6,3,64]{3,2,1,0}, bf16[2,6,3,64]{3,2,1,0}, bf16[2,6,3,64]{3,2,1,0}, u8[9]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="jit(step)/transpose(jvp(PointBERT))/block_3/attention/f"}, backend_config={"cudnn_fmha_backend_config":{"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "3", "6", "6"]}}}
  %exact = f32[32,16]{1,0} dot(%u, %v), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}, metadata={op_name="jit(step)/jvp(losses)/dot_general"}
  %sum-start = bf16[64,64]{1,0} all-reduce-start(%w), replica_groups={{0,1}}, to_apply=%add_f32, metadata={op_name="jit(step)/transpose(jvp(PointBERT))/block_3/qkv/dot_general"}
  %sum-done = bf16[64,64]{1,0} all-reduce-done(%sum-start)
  ROOT %result = f32[32,16]{1,0} copy(%exact)
}
"""

KNOWN = ', backend_config={"known_trip_count":{"n":"5"}}'
MACHINE = targets.Target(
  memory=2**30,
  bandwidth=1e6,
  peaks={"bf16": 1e7, "tf32": 1e7, "f32": 1e6, "vector": 1e6},
  launch=0.01,
)


@pytest.mark.parametrize("known", [KNOWN, ""])
def test_an_account_is_what_a_hand_counts(known):
  """The loop's trips are known, or the constant of its condition."""
  program = hlo.Program(TEXT.replace("KNOWN", known))
  found = compiled.account(program, MACHINE)
  rows = {
    row["stage"]: (row["launches"], row["bytes"], dict(+row["operations"]))
    for row in found["stages"]
  }
  assert rows == {
    # Ten numbers of 16 bytes taken, not the cloud; their indices; the result.
    "input": (1, 160 + 40 + 160, {}),
    # A copy, and five times: two operands' rows, a counter, a result; a step.
    "tokenizer": (
      *(1 + 5 + 5, 8192 + 5 * (3 * 4096 + 4) + 5 * 8),
      {"vector": 5 * 32 * 64 + 5},
    ),
    "losses": (1, 8192 + 4096 + 2048, {"f32": 2 * 32 * 64 * 16}),
    "optimizer": (1, 64 * 4, {}),
    "mini-PointNet": (
      *(5, 5 * (4096 + 8192 + 4096)),
      {"bf16": 5 * 2 * 32 * 64 * 64},
    ),
    "attention": (
      *(2, (4 + 6) * 2 * 6 * 3 * 64 * 2),
      {"bf16": (2 + 5) * 2 * (2 * 3 * 6 * 6) * 64},
    ),
    "rest of the blocks": (1, 2 * 8192, {}),
    "other": (1, 2 * 2048, {}),
  }
  assert found["remat"] == 1
  assert found["collectives"] == [
    {"collective": "all-reduce", "type": "bf16", "count": 1, "MiB": 1 / 128}
  ]


def test_a_roofline_is_its_longest_part_and_the_launches():
  found = compiled.account(hlo.Program(TEXT.replace("KNOWN", KNOWN)), MACHINE)
  rows = {row["stage"]: row for row in found["stages"]}
  point_net = rows["mini-PointNet"]
  assert point_net["roofline_s"] == pytest.approx(5 * 0.026214400 + 5 * 0.01)
  assert point_net["bound"] == "operations"
  assert rows["losses"]["roofline_s"] == pytest.approx(0.065536 + 0.01)
  tokenizer = rows["tokenizer"]
  assert tokenizer["bound"] == "launches"
  assert tokenizer["roofline_s"] == pytest.approx(0.069692 + 0.11)
  assert tokenizer["kernels_s"] == pytest.approx(0.069692 + 0.11)


def test_what_the_mini_pointnets_kernels_multiply():
  text = """
ENTRY %main (x: bf16[2,128,16], w: bf16[16,64], s: f32[64], one: bf16[8,64]) -> f32[2,1,64,8] {
  %x = bf16[2,128,16]{2,1,0} parameter(0)
  %w = bf16[16,64]{1,0} parameter(1)
  %s = f32[64]{0} parameter(2)
  %one = bf16[8,64]{1,0} parameter(3)
  %sums = (f32[2,1,64,8]{3,2,1,0}, f32[2,1,64,64]{3,2,1,0}) custom-call(%x, %w, %s, %one), custom_call_target="mosaic_gpu_v2"
  ROOT %sum = f32[2,1,64,8]{3,2,1,0} get-tuple-element(%sums), index=0
}
"""
  (kernel,) = hlo.Program(text).kernels()
  products = 2 * 2 * 128 * (16 * 64 + 64 * 8 + 64 * 64)
  assert dict(+kernel.operations) == {"bf16": products}


def test_a_tpus_batches_are_windows_and_vmem_is_free():
  text = """
ENTRY %main (a: bf16[3,4,5], b: bf16[3,5,6]) -> bf16[3,4,6] {
  %a = bf16[3,4,5]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %b = bf16[3,5,6]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %ab = bf16[3,4,6]{2,1,0:T(8,128)(2,1)} convolution(%a, %b), window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf
}
"""
  (kernel,) = hlo.Program(text).kernels()
  assert kernel.operations == {"bf16": 2 * 3 * 4 * 5 * 6}
  assert kernel.bytes == 2 * 3 * 5 * 6 + 2 * 3 * 4 * 6


def test_a_bar_that_is_missed_is_named():
  row = compiled.account(hlo.Program(TEXT.replace("KNOWN", KNOWN)), MACHINE)
  row |= {"peak_gib": 57.0, "roofline_ms": 170.0}
  bar = compiled.Bar("m", "h100", peak_gib=56, ms=165)
  peak, remat, time, reduced = compiled.misses(bar, row)
  assert "57.0 GiB" in peak and "1 instructions" in remat
  assert "170.0 ms" in time and "1 all-reduce of bf16" in reduced
  row |= {"peak_gib": 56.0, "roofline_ms": 165.0}
  assert not compiled.misses(bar, row | {"remat": 0, "collectives": []})


def test_without_its_extra_it_names_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  for name in targets.TARGETS:
    with pytest.raises(BadInput, match=rf"{name} .*pip install -e \.\[aot\]"):
      targets.topology(name, 1)


@pytest.mark.slow
def test_compiles_for_a_gpu_that_is_not_there(tmp_path, monkeypatch, capsys):
  try:
    targets.topology("h100", 1)
  except BadInput as error:
    pytest.skip(str(error))
  shallow = dataclasses.replace(compiled.SIZES["t"], depth=1)
  monkeypatch.setitem(compiled.SIZES, "shallow", shallow)
  args = ["--sizes=shallow", "--batch=8", "--points=300", "--embed_dim=32"]
  args += [f"--json={tmp_path}/rows.json", f"--hlo={tmp_path}/hlo"]
  assert compiled.main(compiled.parse(args)) == 0
  assert " mini-PointNet |" in capsys.readouterr().out
  (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
  assert (tmp_path / "hlo" / "shallow-8-h100-1.hlo").exists()
  assert 0 < row["arguments_gib"] < row["peak_gib"] < 1
  stages = {part["stage"]: part for part in row["stages"]}
  assert {*compiled.STAGES.values()} <= {*stages}
  # A block's matrices, forward and twice backward.
  tokens, width = 8 * (1 + shallow.groups), shallow.width
  matrices = width * (4 * 64 * shallow.heads + 2 * shallow.mlp_dim)
  products = stages["rest of the blocks"]["operations"]["bf16"]
  assert products == pytest.approx(3 * 2 * tokens * matrices, rel=0.02)
