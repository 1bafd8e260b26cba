# Three commands on a fresh machine: `make demo`, `make test` and `make bench`.

PYTHON_IN_VENV = .venv/bin/python

.PHONY: demo test lint fast bench clean lock environment mysql-server newer-servers restic-versions

demo:            ## the main job end to end under demo/, no server, no root
	@sh tools/venv.sh requirements.lock
	@$(PYTHON_IN_VENV) tools/demo.py

test:            ## everything: lint, types, import contract, all tests; installs what they need
	@sh tools/test-servers.sh
	@$(MAKE) --no-print-directory -j 4 environment mysql-server newer-servers restic-versions
	@$(MAKE) --no-print-directory lint
	$(PYTHON_IN_VENV) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not servers and not soak"
	BACKUPCTL_RESTIC_BINARIES="$$(sh tools/restic-versions.sh)" BACKUPCTL_NEWER_SERVERS="$$(sh tools/newer-servers.sh)" BACKUPCTL_MYSQL_SERVER="$$(sh tools/mysql-server.sh)" $(PYTHON_IN_VENV) -m pytest -q -n $$(expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder -m "servers or soak" --durations=15

environment:
	@sh tools/venv.sh requirements-test.lock
mysql-server newer-servers restic-versions:
	@sh tools/$@.sh >/dev/null

lint:            ## ruff, mypy --strict, import contract
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

fast:            ## the tests that need no server
	@sh tools/venv.sh requirements-test.lock
	$(PYTHON_IN_VENV) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not servers and not soak"

bench:           ## side by side with restic and borg; BENCH="--size quick" for a shorter one
	@sh tools/bench-programs.sh
	@sh tools/venv.sh requirements-test.lock
	BACKUPCTL_RESTIC_BINARIES="$$(sh tools/restic-versions.sh)" $(PYTHON_IN_VENV) -m tests.benchmarks --output docs/performance $(BENCH)

lock:            ## refresh the lock files (needs uv)
	sh tools/lock.sh

clean:
	rm -rf demo .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
