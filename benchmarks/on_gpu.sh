#!/usr/bin/env bash
# Measures on a GPU what only a GPU can say; see benchmarks/on_gpu.py.  From the
# repository's root:
#   PYTHON=.venv/bin/python benchmarks/on_gpu.sh FOLDER
exec "${PYTHON:-python}" -m benchmarks.on_gpu "$@"
