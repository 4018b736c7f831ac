#!/usr/bin/env bash
# ./launch.sh                          set up, then the demo
# ./launch.sh test [PYTEST ARGUMENTS]  set up, then the checks and the tests
# ./launch.sh RECIPE.yaml --key=value  set up, then: accelerate launch trainer/main.py RECIPE.yaml --key=value
# ACCELERATE_ARGS replaces the flags of `accelerate launch`, such as "--num_processes 4 --multi_gpu".
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
  python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" -V 2>&1) is too old: install Python 3.11 or newer, or name one with PYTHON=" >&2
    exit 2
  }
  [ -x "$here/.venv/bin/python" ] || "$python" -m venv "$here/.venv"
  # shellcheck disable=SC1091
  source "$here/.venv/bin/activate"
fi

stamp="$(python -c 'import sys; print(sys.prefix)')/.whisper-loop-installed"
if ! cmp -s "$here/pyproject.toml" "$stamp"; then
  echo "installing into ${stamp%/*} …"
  (cd "$here" && python -m pip install --quiet --disable-pip-version-check --editable ".[demo,test]")
  cp "$here/pyproject.toml" "$stamp"
fi

gpus() { # those that this process may see; 0 on a machine without
  local device count=0
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    for device in ${CUDA_VISIBLE_DEVICES//,/ }; do
      # CUDA ignores the first invalid entry (-1, NoDevFiles) and all after it; empty hides all GPUs
      [[ $device =~ ^([0-9]|GPU-|MIG-) ]] || break
      count=$((count + 1))
    done
    echo "$count"
  else
    { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true
  fi
}

train() {
  local count processes flags
  count=$(gpus)
  processes=$((count > 1 ? count : 1))
  flags="--num_processes $processes --num_machines 1 --mixed_precision no --dynamo_backend no"
  [ "$count" -le 1 ] || flags="--multi_gpu $flags"
  # Accelerate would give each process one thread
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(getconf _NPROCESSORS_ONLN) / processes))}
  # precision is a knob of ours; --quiet: our own sentence instead of the launcher's traceback
  # shellcheck disable=SC2086
  supervise accelerate launch --quiet ${ACCELERATE_ARGS:-$flags} "$here/trainer/main.py" "$@"
}

# Runs a launcher in its own process group. SIGTERM kills `accelerate launch` and orphans its child, and SIGUSR1 does
# so to torchrun. Here the launcher ignores signals, the trainer receives them, and the script exits with its status.
supervise() {
  local status_file launcher status path
  status_file=$(mktemp)
  export WHISPER_LOOP_EXIT=$status_file
  set -m
  (
    trap '' HUP INT TERM USR1
    exec "$@"
  ) &
  launcher=$!
  set +m
  # shellcheck disable=SC2064
  trap "kill -s TERM -- -$launcher 2>/dev/null || true" HUP INT TERM USR1
  while true; do
    wait "$launcher" && status=0 || status=$?
    kill -s 0 "$launcher" 2>/dev/null || break # else only a signal came in
  done
  kill -s KILL -- "-$launcher" 2>/dev/null || true
  if [ -s "$status_file" ]; then
    # a trainer that was killed together with its watchdog could not write its status
    path=$(sed -n 2p "$status_file")
    [ -z "$path" ] || python -I -S "$here/trainer/process/watchdog_process.py" --gone "$path" || true
    status=$(sed -n 1p "$status_file")
  fi
  rm -f "$status_file"
  exit "$status"
}

case "${1:-}" in
  "" | demo)
    cd "$here"
    [ -d runs/demo-corpus ] || python -m data demo-corpus runs/demo-corpus
    [ -d runs/demo-model ] ||
      python -m trainer tiny-model --corpus runs/demo-corpus/en runs/demo-corpus/zh-TW --out runs/demo-model
    shift || true
    # this model is too small to gain from two threads; the other core decodes
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    train demo.yaml "$@"
    ;;
  test)
    shift
    cd "$here"
    export HF_HUB_OFFLINE=1
    ruff check .
    ruff format --check .
    mypy
    exec python -m pytest --numprocesses=auto --dist=worksteal "$@"
    ;;
  *)
    train "$@"
    ;;
esac
