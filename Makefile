# Everything here needs Python (3.10 to 3.13; cube-demo, benchmark, test and lint to 3.12), pip and make, and puts what it
# installs into $(VENV).
#
#   make demo      train on recorded data, turn omega, leave pictures in runs/demo
#   make cube-demo a robot learns to place a cube (OGBench): data, training, film, bundle; 25 minutes, runs/cube-demo
#   make driving-demo a car's planner: scenes made, imitation, two adapters, bird's-eye pictures; runs/driving-demo
#   make camera-demo the arm sees its target through a camera, and is driven over ROS 2 with its pictures; runs/camera-demo
#   make benchmark every algorithm on three small tasks, one table; a quarter of an hour, runs/benchmark/smoke
#   make ros-demo  what that trained drives a simulated arm over ROS 2, no ROS install needed; runs/ros-demo
#   make test      the test suite
#   make docs      the documentation as a site, in site/; opens from the file system
#   make test-kilted  the node's tests on the wire with the rclpy of ROS 2 Kilted; those of `make test` have Jazzy's
#   make packages  wheels and source distributions of all three packages, in dist/, checked as an index checks them
#   make test-packages  these, installed in new environments of every Python version that is here; gigabytes of torch
#   make lint      ruff and strict mypy

PYTHON ?= python3
VENV ?= .venv
# Pinned, so that a machine that has (or points pip to) a CPU build does not pull gigabytes of CUDA with a newer one.
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# Python versions that `make test-packages` tries.
PYTHONS ?= 3.10 3.11 3.12 3.13

RUN := $(VENV)/bin/python
# The robot's two distributions are on no index: the extras that need them find them in the same command.
INSTALL := $(RUN) -m pip install --quiet --editable ros2_ws/src/dipole_runtime --editable ros2_ws/src/dipole_policy
METADATA := pyproject.toml ros2_ws/src/dipole_runtime/setup.py ros2_ws/src/dipole_policy/setup.py
KILTED := $(VENV)-kilted
# The tests run side by side, one thread each; nothing is rendered.
TEST_ENVIRONMENT := MUJOCO_GL=disable OMP_NUM_THREADS=1


.PHONY: demo cube-demo driving-demo camera-demo benchmark ros-demo docs test test-kilted packages test-packages lint format clean

demo: $(VENV)/.demo
	MUJOCO_GL=disable $(RUN) -m dipole_export.cli demo $(ARGS)

cube-demo: $(VENV)/.cube
	MUJOCO_GL=disable $(RUN) -m dipole_export.cli demo task=ogbench/cube-single-play $(ARGS)

driving-demo: $(VENV)/.driving
	$(RUN) -m dipole_export.cli demo task=driving/highway-mix $(ARGS)

camera-demo: $(VENV)/.ros
	$(RUN) -m dipole_export.cli demo task=camera-reacher $(ARGS)
	$(RUN) -m dipole_policy.demo --camera 64 --bundle runs/camera-demo/bundle --out runs/camera-demo/ros

benchmark: $(VENV)/.benchmark
	MUJOCO_GL=disable $(RUN) -m dipole_export.cli benchmark suite=smoke $(ARGS)

ros-demo: $(VENV)/.ros runs/demo/bundle/manifest.json
	MUJOCO_GL=disable $(RUN) -m dipole_policy.demo --bundle runs/demo/bundle --out runs/ros-demo $(ARGS)

runs/demo/bundle/manifest.json:
	$(MAKE) demo ARGS=

# Without the notice that Material for MkDocs prints about its successor.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

test: $(VENV)/.dev
	$(TEST_ENVIRONMENT) $(RUN) -m pytest tests $(PYTEST_ARGS)

# Not all of tests/ros: what knows no rclpy was tested with the other one.
test-kilted: $(KILTED)/.done
	$(TEST_ENVIRONMENT) $(KILTED)/bin/python -m pytest --confcutdir=tests/ros $(PYTEST_ARGS) \
		$(addprefix tests/ros/test_ros_,wiring.py stop_requests.py node.py greediness.py faults.py process.py security.py takeover.py cameras_wire.py)

packages: $(VENV)/.dev
	rm -rf dist
	for folder in . ros2_ws/src/dipole_runtime ros2_ws/src/dipole_policy; do \
		$(RUN) -m build --quiet --outdir dist $$folder || exit 1; done
	$(RUN) -m twine check --strict dist/*

# CLEAN=wheel: of these tests only the one of the wheel with the README's first lines.
test-packages: packages
	PYTHONS="$(PYTHONS)" TORCH="$(TORCH)" $(RUN) -m pytest tests/packages/clean_environments.py -rs \
		-o tmp_path_retention_policy=failed -k "$(CLEAN)"

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Debian and Ubuntu ship Python without ensurepip unless python3-venv is installed; then pip installs itself.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)
	$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --upgrade \
		--target "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip

$(VENV)/.torch: Makefile | $(VENV)/bin/python
	$(RUN) -m pip install --quiet "$(TORCH)"
	@touch $@

$(VENV)/.demo: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[demo]"
	@touch $@

$(VENV)/.cube: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[demo,ogbench]"
	@touch $@

$(VENV)/.driving: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[demo,driving]"
	@touch $@

$(VENV)/.benchmark: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[benchmark]"
	@touch $@

$(VENV)/.ros: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[demo,ros]"
	@touch $@

$(VENV)/.docs: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[docs]"
	@touch $@

$(VENV)/.dev: $(METADATA) $(VENV)/.torch
	$(INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/.benchmark $(VENV)/.demo $(VENV)/.docs $(VENV)/.driving $(VENV)/.ros

# No torch: the node needs none.
$(KILTED)/.done: tests/ros/kilted.txt $(VENV)/bin/python
	$(VENV)/bin/python -m venv --without-pip $(KILTED)
	$(RUN) -m pip --python $(KILTED) install --quiet --requirement tests/ros/kilted.txt
	@touch $@

clean:
	rm -rf $(VENV) $(KILTED) build dist site *.egg-info ros2_ws/src/*/build ros2_ws/src/*/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
