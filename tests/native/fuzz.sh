#!/usr/bin/env bash
# Fuzzes the operators for SECONDS (default 60) under AddressSanitizer and
# UndefinedBehaviorSanitizer: with libFuzzer where there is a clang++, else with GCC and random
# inputs. Fails on the first report; inputs found by libFuzzer are kept in build/fuzz/*/corpus.
# Exit code 77: this machine lacks something, the last line says what.
#   CXX         the compiler, instead of the one found
#   FUZZ_BUILD  the build folder, instead of build/fuzz
set -euo pipefail
seconds=${1:-60}
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${FUZZ_BUILD:-$root/build/fuzz}
PATH=$PATH:$(dirname "$(command -v "${PYTHON:-python3}")")  # cmake may be installed beside it

if [[ -z ${CXX:-} ]]; then
  CXX=$(compgen -c clang++ | grep -xE 'clang\+\+(-[0-9]+)?' | sort -Vr | head -n 1 || true)
  CXX=${CXX:-g++}
fi
# A clang without its sanitizer runtimes does not link.
check=$(mktemp -d)
trap 'rm -rf "$check"' EXIT
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$check/empty.cc"
if "$CXX" -fsanitize=fuzzer,address,undefined "$check/empty.cc" -o "$check/empty" 2>"$check/log"; then
  engine=libFuzzer sanitizers=fuzzer-no-link,address,undefined
else
  engine="random inputs" sanitizers=address,undefined
  case $CXX in *clang*) CXX=g++ ;; esac
  if ! echo 'int main() {}' | "$CXX" -x c++ - -fsanitize=$sanitizers -o "$check/empty" || ! "$check/empty"; then
    echo "fuzz: no program of $CXX runs with -fsanitize=$sanitizers"
    exit 77
  fi
fi
command -v cmake >/dev/null || { echo "fuzz: no cmake"; exit 77; }
echo "fuzz: $engine, $CXX, $seconds seconds"

build=$build/${CXX##*/}
log=$check/log
if ! { cmake -S "$root" -B "$build" -DCMAKE_CXX_COMPILER="$CXX" -DSNN_NATIVE_TESTS=ON -DSNN_SANITIZE=$sanitizers &&
  cmake --build "$build" --target fuzz_operators; } >"$log" 2>&1; then
  cat "$log"
  echo "fuzz: FAIL: does not build"
  exit 1
fi

fuzzer=$build/tests/native/fuzz_operators
export UBSAN_OPTIONS=print_stacktrace=1
status=0
if [[ $engine == libFuzzer ]]; then
  corpus=$build/corpus
  mkdir -p "$corpus"
  "$fuzzer" -max_total_time="$seconds" -max_len=600 -timeout=20 -print_final_stats=1 -verbosity=1 \
    -artifact_prefix="$build/" "$corpus" >"$log" 2>&1 || status=$?
  grep -E '^Done|average_exec|new_units|peak_rss' "$log" || true
else
  "$fuzzer" "$seconds" "${SEED:-$RANDOM}" >"$log" 2>&1 || status=$?
  grep -E 'executions in' "$log" || true
fi
if [[ $status != 0 ]]; then
  tail -n 60 "$log"
  echo "fuzz: FAIL: status $status"
  exit 1
fi
echo "fuzz: PASS: no crash"
