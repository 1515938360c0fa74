#!/usr/bin/env bash
# The operators under sanitizers, one line per stage and PASS or FAIL. GCC builds, the tests
# run under the installed onnxruntime, which is not instrumented; see each stage for what
# that means.
#   sanitize.sh [address] [thread]   those alone
# Exit code 1: a stage failed. 77: this machine lacks something, the last line says what.
#   PYTHON          runs the tests (default python3); the package is installed for it
#   SANITIZE_BUILD  the build folder, instead of build/sanitize
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${SANITIZE_BUILD:-$root/build/sanitize}
cannot_run() {
  echo "sanitize: $1"
  exit 77
}
python=$(command -v "${PYTHON:-python3}") || cannot_run "no ${PYTHON:-python3}"
PATH=$PATH:$(dirname "$python")  # cmake may be installed beside it
CXX=${CXX:-g++}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=0
cd "$root" || exit 1

if ! echo '#if defined(__clang__) || !defined(__GNUC__)
#error
#endif' | "$CXX" -x c++ -E - >/dev/null 2>&1; then
  cannot_run "$CXX is not GCC, whose shared sanitizer runtimes this preloads"
fi
command -v cmake >/dev/null || cannot_run "no cmake"

checked=("$@")
[[ $# == 0 ]] && checked=(address thread)
declare -A sanitizers=([address]=address,undefined [thread]=thread)
for name in "${checked[@]}"; do
  option=-fsanitize=${sanitizers[$name]:?"$name is neither address nor thread"}
  if ! echo 'int main() {}' | "$CXX" -x c++ - "$option" -o "$logs/empty" || ! "$logs/empty"; then
    cannot_run "no program of $CXX runs with $option"
  fi
done
is_checked() { [[ " ${checked[*]} " == *" $1 "* ]]; }

# Runs a stage's command; its output is shown where it fails.
stage() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$logs/out" 2>&1; then
    echo "PASS  $name ($((SECONDS - start)) s)"
  else
    echo "FAIL  $name ($((SECONDS - start)) s)"
    tail -n 60 "$logs/out"
    failed=1
    return 1
  fi
}

# make_build SOURCES FOLDER SANITIZERS [CMAKE OPTION...]
make_build() {
  cmake -S "$1" -B "$2" -DCMAKE_CXX_COMPILER="$CXX" -DSNN_NATIVE_TESTS=ON -DSNN_SANITIZE="$3" "${@:4}" &&
    cmake --build "$2"
}

runtime_of() { "$CXX" -print-file-name="lib$1.so"; }

# under FOLDER OPTIONS PRELOADED PYTHON-ARGUMENT...: Python with that build of the library.
under() {
  local folder=$1 options=$2 preloaded=$3
  shift 3
  env SNN_OPS_LIBRARY="$folder/libsnn_ops.so" ASAN_OPTIONS="$options" TSAN_OPTIONS="$options" \
    UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$root/tests" LD_PRELOAD="$preloaded" "$python" "$@"
}

tests=(tests/runtime_ops/test_multi_threshold_fire.py)
for name in scale_fire staircase_fire integrate_fire kernels two_sessions; do
  [[ -f tests/runtime_ops/test_$name.py ]] && tests+=("tests/runtime_ops/test_$name.py")
done
# Ten million values show rounding, which is no sanitizer's affair.
pytest=(-m pytest -q -p no:cacheprovider -m "not slow")

# That the tests would not run on another build of the library.
is_used() {
  under "$1" "$2" "$3" -c "
from snn_compile.runtime_ops import library_path
assert str(library_path()) == '$1/libsnn_ops.so', library_path()" &&
    nm -D "$1/libsnn_ops.so" | grep -q "$4"
}

# --- Addresses and undefined behaviour. Python leaks by design, so leaks are the fuzzer's
# affair. libstdc++ is preloaded for the sanitizer to find __cxa_throw, which the runtime
# throws with and Python does not link.
asan=$build/asan
asan_preloaded="$(runtime_of asan) $(runtime_of ubsan) $(runtime_of stdc++)"
asan_options=detect_leaks=0
if is_checked address && stage "build with address,undefined" make_build "$root" "$asan" address,undefined; then
  stage "that build is the one used" is_used "$asan" $asan_options "$asan_preloaded" __asan_report_load
  stage "operator tests under address,undefined" \
    under "$asan" $asan_options "$asan_preloaded" "${pytest[@]}" "${tests[@]}"
  stage "random inputs under address,undefined" "$asan/tests/native/fuzz_operators" 10 1
fi

# --- The same inputs on the code as it is installed: sanitizers turn optimisations off.
if is_checked address && stage "build as installed" make_build "$root" "$build/plain" ""; then
  stage "random inputs as installed" "$build/plain/tests/native/fuzz_operators" 10 1
fi

# --- Threads. What only the runtime's own code does is not looked at
# (ignore_noninstrumented_modules); how its thread pool orders our chunks is told by
# annotations in operators/node.h.
tsan=$build/tsan
tsan_preloaded=$(runtime_of tsan)
tsan_options="ignore_noninstrumented_modules=1 log_path=$logs/race"

# Its reports go to files, as pytest keeps what a passing test prints. Succeeds without any.
no_race() {
  rm -f "$logs"/race*
  "$@"
  local status=$?
  cat "$logs"/race* 2>/dev/null && return 1
  return $status
}
# Succeeds where the command is reported to have the race, and fails for it.
has_race() {
  rm -f "$logs"/race*
  "$@" >"$logs/planted" 2>&1 && { echo "it succeeded"; return 1; }
  cat "$logs/planted" "$logs"/race* 2>/dev/null | tee "$logs/report" | head -n 40
  grep -q 'WARNING: ThreadSanitizer: data race' "$logs/report" && grep -q run_chunk "$logs/report"
}
if is_checked thread && stage "build with thread" make_build "$root" "$tsan" thread; then
  stage "that build is the one used" is_used "$tsan" "$tsan_options" "$tsan_preloaded" __tsan_
  stage "operator tests under thread" \
    no_race under "$tsan" "$tsan_options" "$tsan_preloaded" "${pytest[@]}" "${tests[@]}"
  stage "two sessions at once under thread, all instrumented" "$tsan/tests/native/two_sessions" 20
fi

# --- Planted mistakes: the stages above would see them.
# plant FOLDER FILE OLD NEW: a copy of the sources where OLD, there exactly once, is NEW.
plant() {
  rm -rf "$1" && mkdir -p "$1/tests" && cp -r CMakeLists.txt runtime_ops "$1" && cp -r tests/native "$1/tests" &&
    "$python" - "$1/$2" "$3" "$4" <<'PYTHON'
import sys
from pathlib import Path

path, old, new = Path(sys.argv[1]), *sys.argv[2:]
text = path.read_text()
if text.count(old) != 1:
    sys.exit(f"{old!r} occurs {text.count(old)} times in {path}, must be once")
path.write_text(text.replace(old, new))
PYTHON
}
node=runtime_ops/src/operators/node.h

# The kernel is told of one element more than there is.
is_overrun() {
  "$@" >"$logs/planted" 2>&1 && { echo "it succeeded"; return 1; }
  tee "$logs/report" <"$logs/planted" | head -n 40
  grep -q 'AddressSanitizer: heap-buffer-overflow' "$logs/report"
}
overrun=$build/overrun
if is_checked address && stage "plant an overrun" plant "$overrun/source" $node \
  'kernel(x, y, 0, count, layout, parameters);' 'kernel(x, y, 0, count + 1, layout, parameters);' &&
  stage "build it" make_build "$overrun/source" "$overrun" address,undefined -DSNN_MAX_ISA=baseline; then
  stage "the overrun is reported" is_overrun "$overrun/tests/native/fuzz_operators" 10 1
fi

# Each chunk writes the first element of the next one, too.
race=$build/race
if is_checked thread && stage "plant a race" plant "$race/source" $node 'begin + work.chunk;' 'begin + work.chunk + 1;' &&
  stage "build it" make_build "$race/source" "$race" thread -DSNN_MAX_ISA=baseline; then
  stage "the race is reported, all instrumented" has_race "$race/tests/native/two_sessions" 2
  stage "the race is reported under the installed runtime" \
    has_race under "$race" "$tsan_options" "$tsan_preloaded" "${pytest[@]}" tests/runtime_ops/test_two_sessions.py
fi

if [[ $failed == 0 ]]; then echo "sanitize: PASS"; else echo "sanitize: FAIL"; fi
exit $failed
