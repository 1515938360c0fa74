# Checks that take more than pytest; none of them changes the working tree outside build/.
PYTHON ?= python3
SECONDS ?= 60

.PHONY: help fuzz sanitize abi arm

help:  ## This list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

fuzz:  ## Fuzz the C++ operators for SECONDS
	bash tests/native/fuzz.sh $(SECONDS)

sanitize:  ## Operator tests under the address, undefined behaviour and thread sanitizers
	PYTHON=$(PYTHON) bash tests/native/sanitize.sh

arm:  ## The kernels on 64-bit Arm, emulated; needs a cross compiler and qemu-user
	cmake -S . -B build/arm -DSNN_NATIVE_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static
	cmake --build build/arm --target check_kernels
	qemu-aarch64-static build/arm/tests/native/check_kernels

abi:  ## The library against one release of ONNX Runtime after another
	$(PYTHON) tests/abi/matrix.py
