"""The benchmark of the losses, and how it counts collectives."""

import pytest

from benchmarks import collectives, losses


def test_the_benchmark_runs():
  arguments = ["--batch=", "--timed=16", "--dim=8", "--rounds=1", "--stripe=4"]
  result = losses.measure(losses.parse([*arguments, "--cross_form=matched"]))
  (row,) = result["times"]
  assert set(row["seconds"]) == {"dense", "gather"}
  assert all(x > 0 for (x,) in row["seconds"].values())
  result["programs"] = [
    {
      "batch": 16,
      "devices": 8,
      "form": "gather",
      "temporaries": 2**30,
      "collectives": dict.fromkeys(collectives.NAMES, 2**20),
      "expected": {"all-gather": 2**21},
    }
  ]
  table = losses.tables(result)
  assert "1.000" in table and "1.00 (2.00)" in table
  assert "| gather / dense |" in table


def test_the_benchmark_counts_loops_as_often_as_they_run():
  text = """
%body (x: f32[4]) -> f32[4] {
  %p = f32[4]{0} collective-permute(%x), channel_id=1
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %g = f32[8,4]{1,0} all-gather(%x), channel_id=2
  %s = (f32[2]{0}, s32[2]{0}) reduce-scatter(%x, %y), replica_groups={{0,1,2}}
  %w = f32[4]{0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501
  assert collectives.count(text) == {
    "all-gather": (1, 128),
    "reduce-scatter": (1, 48),
    "collective-permute": (5, 80),
    "all-reduce": (0, 0),
    "all-to-all": (0, 0),
  }
  assert losses.largest_array(text) == 32


@pytest.mark.parametrize(
  "groups",
  [
    "{{0,2,4,6},{1,3,5,7}}",
    "[2,4]<=[8]",
    "[2,4]<=[4,2]T(1,0)",
    "mesh['data'=4,'fsdp'=2] {'data'}",  # jaxlib 0.12
    "mesh['pod'=2,'data'=2,'fsdp'=2] {'data','fsdp'}",
  ],
)
def test_the_benchmark_reads_any_form_of_groups(groups):
  line = (
    f"%s = f32[2]{{0}} reduce-scatter(%x), replica_groups={groups}, a={{1}}"
  )
  assert collectives.group_size(line) == 4
