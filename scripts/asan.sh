#!/usr/bin/env bash
# The operator tests on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the tree.
#   PYTHON   the interpreter, with torch, pytest, hypothesis and the build requirements (default: python3)
#   CXX      the compiler (default: c++)
# Further arguments go to pytest.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}"
export CXX="${CXX:-c++}"
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT

cp -r "$root"/{csrc,fastgmtl,tests,setup.py,pyproject.toml,README.md,LICENSE} "$copy"
rm -f "$copy"/fastgmtl/_C*.so

cd "$copy"
# -O1 and checks by calls keep the build short; the loops are the same. Null pointers and object bounds are the address
# sanitizer's anyhow.
flags="-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
flags="$flags -fno-sanitize=null,object-size,vptr"
"$CXX" --version | grep -qi clang || flags="$flags --param=asan-instrumentation-with-call-threshold=0"
FASTGMTL_CUDA=0 FASTGMTL_CXXFLAGS="$flags" "$python" setup.py -q build_ext --inplace >build.log 2>&1 || {
  tail -n 60 build.log
  exit 1
}

# The interpreter itself is not instrumented: the runtimes come first, and libstdc++ so that exceptions are seen.
preload=""
for library in libasan.so libubsan.so libstdc++.so; do
  preload="$preload $("$CXX" -print-file-name="$library")"
done
# CPython and torch keep memory to the end. Capture is of Python alone, so that a report is printed. Derivatives call the
# kernels that are called here anyhow.
env LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
  OMP_NUM_THREADS=1 PYTHONPATH="$copy" FASTGMTL_BACKEND=kernel FASTGMTL_REQUIRE_KERNELS=1 \
  "$python" -m pytest -q -n 2 --dist worksteal --capture=sys -p no:cacheprovider tests/ops tests/graph tests/test_border.py \
  -k "not test_transforms and not test_gradients" "$@"
