#!/bin/sh
# `make floor`: with the lowest versions of every direct dependency, the demo, `check`, one command of each probe and the
# quick tests. First with the core alone, then with the extras, some of which ask for more of what the core asks for.
# Run in the folder of the virtual environment, which keeps the answers.
set -eu

measure() {
  echo "== gradprobe $*"
  bin/gradprobe "$@" >last.txt 2>&1 || { cat last.txt; exit 1; }
}

# Newer packages that old ones bring along may warn of their future; that is no fault of gradprobe.
tests() {
  (cd .. && .venv-floor/bin/pytest --quiet -W ignore::DeprecationWarning -W ignore::FutureWarning "$@")
}

measure coherence --op vpnoise --k 58 --figure coherence.svg --force
measure check vpnoise gumbel plackett-luce
measure landscape --op vpnoise --k 58 --grid 5x5 --images 8 --figure landscape.png --force
measure curvature --op vpnoise --k 58 --images 16 --eigenvalues 2 --samples 2 --force
measure fidelity --op vpnoise --k 58 --images 16 --draws 32 --held-out 16 --figure fidelity.png --force
measure equivalence --op vpnoise --k 49 --images 64 --force
measure retention --op vpnoise --k 58 --steps 2 --images 8 --seeds 0 --batch-size 8 --force
measure cost --op vpnoise --k 58 --images 1 --rounds 6 --force
measure compare --op vpnoise --k 58 --size tiny --baseline gumbel --force
measure list operators
tests tests/models/test_backbones.py tests/models/test_weights.py tests/models/test_deploy.py

bin/python -m pip install --quiet $(bin/python ../tests/floors.py vlm interactive peers)
measure vlm cost --model scenes-vlm --k 11
measure coherence --task scenes-vlm --op vpnoise --k 11 --batches 3 --batch-size 2 --force
measure landscape --op vpnoise --k 58 --grid 5x5 --images 8 --page landscape.html --force
tests --numprocesses "${WORKERS:-2}" --dist worksteal
echo "the lowest versions hold"
