# Checks that take more than pytest; only docs and runtimes change the working tree outside build/, in docs/.
PYTHON ?= python3
SECONDS ?= 60

.PHONY: help types pass wheel docs fuzz fuzz-compiler mutate sanitize abi arm runtimes finn

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

types:  ## mypy on the sources, however they are installed; needs the extras 'test' and 'lint'
	mkdir -p build/types/snn_compile
	cd build/types/snn_compile && ln -sfn ../../../compiler ../../../passes ../../../runtime_ops .
	touch build/types/snn_compile/__init__.py  # or mypy prefers what is installed
	cd build/types && $(PYTHON) -m mypy --config-file ../../pyproject.toml -p snn_compile

pass:  ## The graph behind the front end's pass NAME for the network MODEL, as text
	@$(PYTHON) tests/show_pass.py $(NAME) $(MODEL)

wheel:  ## A wheel for every Linux of this processor, in dist/; needs the extra 'wheel'
	rm -rf build/wheel dist
	$(PYTHON) -m pip wheel --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m auditwheel repair --plat manylinux_2_28_$$(uname -m) --wheel-dir dist build/wheel/*.whl

docs:  ## The documentation as a site in build/site; needs the extra 'docs'
	$(PYTHON) docs/generate_operators.py
	$(PYTHON) docs/generate_steps.py
	$(PYTHON) docs/generate_options.py
	$(PYTHON) -m mkdocs build --strict

fuzz:  ## Fuzz the C++ operators for SECONDS
	bash tests/native/fuzz.sh $(SECONDS)

fuzz-compiler:  ## Fuzz reading and compiling a model for SECONDS; needs atheris, and PYTHON where it is
	$(PYTHON) tests/fuzz/fuzz_compile.py -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=6000 \
	  -artifact_prefix=build/fuzz-compiler- build/fuzz-compiler

mutate:  ## Compile 5,000 damaged models: no crash, no traceback
	$(PYTHON) tests/fuzz/mutate.py --count 5000

sanitize:  ## Operator tests under the address, undefined behaviour and thread sanitizers
	PYTHON=$(PYTHON) bash tests/native/sanitize.sh

arm:  ## The kernels on 64-bit Arm, emulated; needs a cross compiler and qemu-user
	cmake -S . -B build/arm -DSNN_NATIVE_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static
	cmake --build build/arm --target check_kernels
	qemu-aarch64-static build/arm/tests/native/check_kernels

abi:  ## The library against one release of ONNX Runtime after another
	$(PYTHON) tests/abi/matrix.py

runtimes:  ## Networks in other runtimes, each in an environment of its own, into docs/runtimes.md; DATA for all networks
	$(PYTHON) tests/bench/make_runtimes.py build/runtimes
	$(PYTHON) tests/bench/bench_runtimes.py --venvs build/runtimes $(addprefix --data ,$(DATA)) --out docs/runtimes.md

finn:  ## What FINN makes hardware of in networks of target qonnx, in an environment of its own; DATA for ResNet-20
	$(PYTHON) tests/bench/bench_finn.py --venv build $(addprefix --data ,$(DATA))
