#!/usr/bin/env bash
# All that needs a GPU, in one call of less than nine minutes: bench/gpu.sh [STEP...]
#   card       what the GPU is
#   python     a Python with PyTorch for CUDA; a .venv is made only where none is found
#   build      for the architecture of the device
#   tests      tests/cuda, under FASTGMTL_REQUIRE_CUDA=1
#   suite      all other tests, on the processor
#   memcheck, racecheck, synccheck   compute-sanitizer over small cases
#   bench      bench_gpu.py: rows in gpu.jsonl, the table in gpu.md
#   ptxas      registers and spills of the kernels that were built
# Every step has a limit of time and is followed by the next one, also when it fails: the status is 1 then. What the
# steps say is in gpu.log, how each one ended in gpu_steps.txt.
#   OUT                     folder of the results (default: bench/results)
#   PYTHON                  the interpreter (default: the first of .venv and python3 that has PyTorch)
#   FASTGMTL_GPU_STANDIN=1  the processor in place of a GPU (as where there is none): CUDA sources on the host, the tests
#                           that need no streams, AddressSanitizer and the host's checks for compute-sanitizer, tiny
#                           benches; results are kept in OUT only
#   FASTGMTL_GPU_TESTS      further arguments of pytest in the step "tests"
set -uo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
gpu=0
[ "${FASTGMTL_GPU_STANDIN:-0}" = 1 ] || ! nvidia-smi -L >/dev/null 2>&1 || gpu=1
for candidate in "$root/.venv/bin/python" python3; do
  [ -n "${PYTHON:-}" ] || ! "$candidate" -c "import torch" >/dev/null 2>&1 || PYTHON="$candidate"
done
export PYTHONPATH="$root" PYTHONUNBUFFERED=1 FASTGMTL_BACKEND=kernel
python="${PYTHON:-$root/.venv/bin/python}"
pytest=("$python" -m pytest -q)

step_card() {
  if [ $gpu = 1 ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit --format=csv
  else
    echo "no GPU: the processor stands in, times mean nothing"
  fi
}

step_python() {
  if [ -z "${PYTHON:-}" ]; then
    python3 -m venv .venv
    "$python" -m pip install --quiet torch==2.13.0 numpy setuptools pybind11 ninja pytest pytest-benchmark hypothesis \
      scikit-learn torch-geometric typer rich matplotlib
  fi
  "$python" -c "import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.is_available())"
}

step_build() {
  if [ $gpu = 1 ]; then
    FASTGMTL_CUDA=1 "$python" setup.py -q build_ext --inplace
  elif ! "$python" -c "from fastgmtl import backend; assert backend.kernels is not None" 2>/dev/null; then
    FASTGMTL_CUDA=0 "$python" setup.py -q build_ext --inplace
  fi && "$python" -m fastgmtl info
}

step_tests() {
  # shellcheck disable=SC2086
  if [ $gpu = 1 ]; then
    FASTGMTL_REQUIRE_CUDA=1 "${pytest[@]}" tests/cuda ${FASTGMTL_GPU_TESTS:-}
  else
    OMP_NUM_THREADS=1 FASTGMTL_TEST_DEVICE=cpu "${pytest[@]}" tests/cuda tests/cuda_host ${FASTGMTL_GPU_TESTS:-}
  fi
}

step_suite() {
  local parallel=()
  "$python" -c "import xdist" 2>/dev/null && parallel=(-n "$(($(nproc) > 4 ? $(nproc) - 4 : 1))")
  if [ $gpu = 1 ]; then
    OMP_NUM_THREADS=1 nice "${pytest[@]}" "${parallel[@]}" tests --ignore=tests/cuda
  else
    echo "without a GPU there is nothing that the usual run of the tests does not do"
  fi
}

sanitizer() {
  if [ $gpu = 1 ]; then
    # Without PyTorch's cache every tensor is an allocation of its own, whose ends are known.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --kernel-name kns=fastgmtl --report-api-errors no \
      --error-exitcode 99 "$python" tests/cuda/small_cases.py
  else
    "${pytest[@]}" tests/cuda_host/test_faults.py -k "$2"
  fi
}
step_memcheck() { sanitizer memcheck address_sanitizer; }
step_racecheck() { sanitizer racecheck "shared or sound"; }
step_synccheck() { sanitizer synccheck "barrier or shuffle"; }

step_bench() {
  local quick=()
  [ $gpu = 1 ] || quick=(--quick)
  "$python" -m pytest -q bench/bench_gpu.py "${quick[@]}" --results "$OUT"
}

step_ptxas() { "$python" -m bench.ptxas; }

if [ "${1:-}" = --step ]; then
  "step_$2"
  exit
fi

if [ -z "${OUT:-}" ]; then
  if [ $gpu = 1 ]; then OUT="$root/bench/results"; else OUT="$(mktemp -d)"; fi
fi
export OUT
mkdir -p "$OUT"
parts="$(mktemp -d)"
trap 'rm -rf "$parts"' EXIT
: >"$OUT/gpu.log"
: >"$OUT/gpu_steps.txt"
wanted=" ${*:-card python build suite tests memcheck racecheck synccheck bench ptxas} "
failed=0

# A step in a process group of its own; pytest writes what it has when it is interrupted.
run() {
  local name="$1" limit="$2" left=$((530 - SECONDS)) began=$SECONDS code
  ((limit < left)) || limit=$((left > 5 ? left : 5))
  timeout -s INT -k 20 "$limit" bash bench/gpu.sh --step "$name" >"$parts/$name" 2>&1
  code=$?
  echo "$name: $([ $code = 0 ] && echo ok || echo "FAILED ($code)"), $((SECONDS - began)) of $limit s" >"$parts/$name.end"
}

tell() {
  local name
  for name in "$@"; do
    [ -f "$parts/$name.end" ] || continue
    { echo "== $name" && cat "$parts/$name"; } >>"$OUT/gpu.log"
    tail -n 12 "$parts/$name"
    echo "== $(cat "$parts/$name.end")"
    cat "$parts/$name.end" >>"$OUT/gpu_steps.txt"
    grep -q ": ok," "$parts/$name.end" || failed=1
  done
}

# "LIMIT NAME..." runs the wanted ones one after the other; with & beside what follows, up to the next "wait".
stage() {
  local limit="$1" name
  for name in "${@:2}"; do
    case "$wanted" in *" $name "*) run "$name" "$limit" ;; esac
  done
}

stage 200 card python build && tell card python build
stage 170 suite &
stage 150 tests && tell tests
for tool in memcheck racecheck synccheck; do
  stage 80 $tool &
  [ $gpu = 1 ] || wait # two builds for the host would write the same files
done
wait
tell suite memcheck racecheck synccheck
stage 290 bench && tell bench
stage 30 ptxas && tell ptxas
echo "results: $OUT"
exit $failed
