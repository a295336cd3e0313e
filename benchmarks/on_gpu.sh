#!/usr/bin/env bash
# The speed of training on a GPU, the weightiest figures first, within 8 minutes;
# from the repository's root:
#   PYTHON=.venv/bin/python benchmarks/on_gpu.sh FOLDER
# Each script leaves its output and its errors in FOLDER; one that fails or is
# late is named, and the next begins.
set -uo pipefail
# Else JAX would measure the CPU where it cannot use the GPU.
export JAX_PLATFORMS=cuda
folder=${1:?usage: benchmarks/on_gpu.sh FOLDER}
python=${PYTHON:-python}
"$python" -c 'import sys
from mrd_jax.cli import exit_code
from mrd_jax.parallel.processes import check_platform
sys.exit(exit_code(lambda: check_platform() or 0))' \
  || exit
mkdir -p "$folder"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$folder/compiled}
deadline=$((SECONDS + ${GPU_SECONDS:-470}))
failed=0

# measure NAME SECONDS MODULE [OPTION ...]
measure() {
  local name=$1 limit=$2 left=$((deadline - SECONDS))
  shift 2
  ((limit < left)) && left=$limit
  if ((left < 5)); then
    echo "$name: no time left"
  elif timeout "$left" "$python" -m "$@" \
    > "$folder/$name.txt" 2> "$folder/$name.err" \
    && ! grep -q '[0-9] skipped' "$folder/$name.txt"; then
    echo "$name: done, $((deadline - SECONDS)) s left"
    return
  else
    echo "$name: failed, or late after $left s; see $folder/$name.err"
  fi
  failed=1
}

half=(--dtype bfloat16 --fps_chunk 4096 --query_chunk 32 --rounds 3)
floors=(--peak_side 8192 --copy_megabytes 4096)
cuda=(--torch-device cuda --json)
step=(benchmarks.step "${half[@]}" "${floors[@]}" --batch)
encoder=(benchmarks.encoder "${half[@]}" "${cuda[@]}" --peak_side 8192)

measure tests 90 pytest -m gpu
measure tokenizer-m 60 benchmarks.tokenizer --size m --batch 512 \
  --fps_chunk 4096 --query_chunk 32 "${cuda[@]}"
measure step-m 60 "${step[@]}" 512 --size m
measure step-t 45 "${step[@]}" 512 --size t
measure step-l 90 "${step[@]}" 512 --size l --remat blocks
measure step-b 60 "${step[@]}" 512 --size b
measure step-s 60 "${step[@]}" 512 --size s
measure encoder-m 90 "${encoder[@]}" --size m --batch 512 \
  --forms eager,tuned,compile
measure infer-m 60 "${encoder[@]}" --size m --work infer --batch 512
measure losses 45 benchmarks.losses --batch= --timed 512,4096
measure ranking 45 benchmarks.ranking --batch 4096 --json
measure startup-m 90 benchmarks.startup --size m --dtype bfloat16 --json
measure encoder-t 60 "${encoder[@]}" --size t --batch 512 \
  --forms eager,tuned,compile
exit "$failed"
