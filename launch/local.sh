#!/usr/bin/env bash
# Runs a verb (main, if none is named) in N processes that share this host's
# GPUs:  launch/local.sh N [main|finetune|evaluate] ARGUMENT...
# SIGTERM or Ctrl-C stops all at one step, the second kills.  When one fails, it
# ends the others and gives its exit code.
set -u; n=${1:-0} && shift
[[ $n == [1-9]* ]] || { echo "error: N is missing" >&2 && exit 2; }
python=${PYTHON:-python} verb=main
[[ ${1:--} == -* ]] || { verb=$1 && shift; }
if [[ ${JAX_PLATFORMS:-} == cpu ]] || ! command -v nvidia-smi > /dev/null; then
  gpus=0
elif [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  gpus=$(tr , '\n' <<< "$CUDA_VISIBLE_DEVICES" | grep -c .)
else
  gpus=$(nvidia-smi --list-gpus | grep -c ^GPU)
fi
((gpus % n)) && echo "error: $n processes cannot share $gpus GPUs" >&2 && exit 2
port=$("$python" -c 'import socket
s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])') || exit 2
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$n
[[ -n ${XLA_CLIENT_MEM_FRACTION:-} ]] ||
  export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.92}
pids=() code=0 kill_at=0 signal=TERM each=$((gpus / n))
for ((i = 0; i < n; i++)); do
  share=$(seq -s , $((i * each)) $((i * each + each - 1))) # empty on a CPU
  JAX_PROCESS_ID=$i ${share:+env JAX_LOCAL_DEVICE_IDS="$share"} \
    "$python" -m "mrd_jax.$verb" --distributed "$@" &
  pids+=($!)
done
trap 'kill -s "$signal" "${pids[@]}" 2> /dev/null; signal=KILL' TERM INT
while ((${#pids[@]})); do
  sleep 0.2 # a poll: old versions of bash cannot wait for any one
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2> /dev/null && continue
    wait "${pids[i]}" && unset "pids[i]" && continue
    status=$? && unset "pids[i]"
    echo "process $i ended with exit code $status" >&2
    ((code)) || code=$status kill_at=$((SECONDS + 10))
  done
  ((code && SECONDS >= kill_at && ${#pids[@]})) && kill -KILL "${pids[@]}"
done
exit "$code"
