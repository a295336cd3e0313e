#!/usr/bin/env bash
# Runs a verb (main, if none is named) on all workers of a TPU slice:
#   ZONE=... launch/tpu_pod.sh NAME [main|finetune|evaluate] ARGUMENT...
# Copies the last commit, no data: data.dir and --workdir must be on a disk that
# all workers have mounted.  PYTHON names a Python >= 3.11 that they have.
set -euo pipefail
name=${1:?the name of the TPU is missing} zone=${ZONE:?set ZONE to its zone}
shift
verb=main
[[ ${1:--} == -* ]] || { verb=$1 && shift; }
tpu() { gcloud compute tpus tpu-vm "$@" --zone="$zone"; }

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
tpu scp "$archive" "$name:mrd_jax.tar.gz" --worker=all
tpu ssh "$name" --worker=all --command="set -e
mkdir -p mrd_jax && cd mrd_jax && tar -xzf ../mrd_jax.tar.gz
${PYTHON:-python3} -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
# It outlives this connection.  Lost a worker (exit codes above 2): all start
# again, 30 s later.
tpu ssh "$name" --worker=all --command="cd mrd_jax
setsid nohup bash -c 'for _ in {1..20}; do
  \"\$@\" && exit 0 || code=\$?; ((code > 2)) || exit \$code; sleep 30
done' - .venv/bin/python -m mrd_jax.$verb --distributed$(printf ' %q' "$@") \\
  >> mrd.log 2>&1 < /dev/null & echo \$! > mrd.pid"
ssh="gcloud compute tpus tpu-vm ssh $name --zone=$zone --worker=0"
echo "watch: $ssh --command='tail -f mrd_jax/mrd.log'"
echo "stop all: $ssh --command='cd mrd_jax; pkill -TERM -P \$(< mrd.pid)" \
  "; kill \$(< mrd.pid)'"
