# SPDX-License-Identifier: Apache-2.0
# What proves the collection. `make test` runs it all; every part has a target of its own.

# The lab of the tests stands beside the one of `make lab`, under a name and in a folder of its own.
HOLDFAST_TEST_LAB ?= $(HOLDFAST_LAB)-test
TEST_LAB = HOLDFAST_LAB=$(HOLDFAST_TEST_LAB) HOLDFAST_LAB_DIR=$(CURDIR)/.lab-test
TEST_LOGS = .cache/test

PYTEST = python -m pytest
SHELL_FILES = $(shell grep --files-with-matches --extended-regexp '^\#!/bin/(ba)?sh|^\#!/usr/bin/env bash|^\# shellcheck shell' \
	$$(git ls-files --cached --others --exclude-standard tools .ci))

.PHONY: test
test: bootstrap ## Run every test, the lab included
	@python tools/stages.py --logs $(TEST_LOGS) \
		--chain "test-lab-down test-lab-hosts test-lab-bare test-lab-up" \
		--each "module lint docs-lint unit packaging sanity" \
		--last "test-lab-verify test-lab-faults" --finally test-lab-down

.PHONY: lint
lint: bootstrap ## Check the style of Python, shell and YAML
	ruff check
	ruff format --check
	mypy
	MYPYPATH=tests:tests/module mypy molecule/default tests/faults
	@. tools/lib.sh && install_packages shellcheck=shellcheck
	shellcheck --severity=warning --external-sources --source-path=SCRIPTDIR $(SHELL_FILES)
	ansible-lint --profile production --offline

.PHONY: docs-lint
docs-lint: bootstrap ## Check the documentation of the plugins and the changelog
	antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=self .
	antsibull-changelog lint

.PHONY: unit
unit: bootstrap ## Test the pure code and the roles' declarations
	$(PYTEST) tests/unit

.PHONY: packaging
packaging: bootstrap ## Build and install the collection, run its playbooks by name
	$(PYTEST) tests/packaging

.PHONY: module
module: bootstrap ## Test the modules against real servers on this machine
	@. tools/lib.sh && install_packages zstd=zstd
	$(PYTEST) tests/module

# Runs are killed so many times for each version and way of moving.
KILLS ?= 50
.PHONY: valkey-kills
valkey-kills: bootstrap ## Kill slot moves of Valkey clusters at random moments, again and again (KILLS)
	HOLDFAST_KILLS=$(KILLS) $(PYTEST) -s tests/module/valkey/test_migration.py -k killed

.PHONY: valkey-minimum
valkey-minimum: bootstrap ## Count the slots that real rebalances move, ours and those of valkey-cli
	HOLDFAST_PEER=1 $(PYTEST) -s tests/module/valkey/test_proofs.py -k fewest

# HOLDFAST_WITNESS: a program that reads and writes event stores through Marten and Akka.NET.
.PHONY: events
events: bootstrap ## Let the real libraries judge exported and imported event stores (HOLDFAST_WITNESS)
	@. tools/lib.sh && install_packages zstd=zstd
	PYTHONPATH=tests/module $(PYTEST) tests/witness
.PHONY: drivers
drivers: bootstrap ## Run PostgreSQL's drivers on the pools and write docs/drivers.md (packages from Debian, PyPI and npm)
	@. tools/lib.sh && install_packages go=golang-go npm=npm node=nodejs java=default-jdk-headless ruby=ruby perl=perl php=php-cli \
		/usr/share/gocode/src/github.com/lib/pq=golang-github-lib-pq-dev /usr/share/gocode/src/github.com/jackc/pgx=golang-github-jackc-pgx-v4-dev \
		/usr/share/doc/php-pgsql=php-pgsql /usr/share/doc/libdbd-pg-perl=libdbd-pg-perl /usr/share/doc/odbc-postgresql=odbc-postgresql \
		/usr/share/java/postgresql.jar=libpostgresql-jdbc-java /usr/share/doc/ruby-pg=ruby-pg /usr/share/doc/ruby-activerecord=ruby-activerecord \
		/usr/share/doc/unixodbc=unixodbc
	PYTHONPATH=tests:tests/module python -m drivers.report

.PHONY: sanity
sanity: bootstrap ## Run ansible-test sanity
	tools/sanity

# MATRIX narrows it: make matrix MATRIX='--only 2.18 --parts unit'.
.PHONY: matrix
matrix: bootstrap ## Test under each supported release of ansible-core, without servers (MATRIX)
	@. tools/lib.sh && install_packages shellcheck=shellcheck
	python tools/matrix.py $(MATRIX)

.PHONY: lab-test
lab-test: bootstrap ## Run Molecule's whole sequence on a lab of its own
	@tools/engine
	$(TEST_LAB) molecule test --scenario-name default

.PHONY: journeys
journeys: bootstrap ## Walk through the operator's journeys on a lab of their own, under a client
	@tools/engine
	$(TEST_LAB) $(PYTEST) -s molecule/default/journeys/test_valkey.py; status=$$?; \
		$(TEST_LAB) ansible-playbook --inventory molecule/default/journeys/inventory --inventory molecule/default/journeys/grown \
			molecule/default/destroy.yml && exit $$status

.PHONY: kubernetes
kubernetes: bootstrap ## Validate manifests against the schemas of CloudNativePG in HOLDFAST_SCHEMAS
	$(PYTEST) tests/kubernetes

.PHONY: switchovers
switchovers: bootstrap ## Switch the primary of the running lab again and again, under load
	$(PYTEST) -s molecule/default/journeys/test_switchover.py

.PHONY: rotation
rotation: bootstrap ## Rotate certificates, their authority and passwords of the running lab, under load
	$(PYTEST) -s molecule/default/journeys/test_rotation.py

# Hosts as people have them; their inventory is that of the journey. FOREIGN narrows it: make foreign FOREIGN='-k "bare or switchover"'.
FOREIGN_LAB = $(TEST_LAB) HOLDFAST_LAB_CONNECTION=ssh
.PHONY: foreign
foreign: bootstrap ## Walk through the operator's journeys over SSH as an unprivileged user with the installed collection, on a lab of their own
	@tools/engine
	@$(FOREIGN_LAB) $(ANSIBLE_PLAYBOOK) --inventory molecule/default/journeys/foreign molecule/default/create.yml
	$(FOREIGN_LAB) $(PYTEST) -s -x $(FOREIGN) molecule/default/journeys/test_foreign.py; status=$$?; \
		$(FOREIGN_LAB) $(ANSIBLE_PLAYBOOK) --inventory molecule/default/journeys/foreign molecule/default/destroy.yml && exit $$status

# One release after the other: from bare hosts, a second run that changes nothing, a check, the tests of the lab.
RELEASES ?= forky bookworm
RELEASE_LAB = HOLDFAST_LAB=$(HOLDFAST_TEST_LAB)-$$suite HOLDFAST_LAB_DIR=$(CURDIR)/.lab-$$suite HOLDFAST_SUITE=$$suite
.PHONY: releases
releases: bootstrap ## Bring a lab up, again, and test it on each of the other Debian releases (RELEASES)
	@for suite in $(RELEASES); do $(RELEASE_LAB) $(MAKE) --no-print-directory release || exit 1; done

.PHONY: release
release:
	@trap '$(MAKE) --no-print-directory lab-down' EXIT; $(MAKE) --no-print-directory lab && \
		$(ANSIBLE_PLAYBOOK) playbooks/site.yml | tee .cache/site-$(HOLDFAST_SUITE).log && \
		! grep --quiet --extended-regexp 'changed=[1-9]' .cache/site-$(HOLDFAST_SUITE).log && \
		$(ANSIBLE_PLAYBOOK) playbooks/check.yml && $(PYTEST) molecule/default/tests

.PHONY: restarts
restarts: bootstrap ## Change a limit of PgBouncer and reinstall packages on the running lab: no client is refused, nothing fails over
	$(PYTEST) -s molecule/default/journeys/test_balancer_settings.py molecule/default/journeys/test_reinstalled_packages.py

.PHONY: runbooks
runbooks: bootstrap ## Do on the running lab what the runbooks say about lost data, members and certificates
	$(PYTEST) -s molecule/default/journeys/test_runbooks.py

.PHONY: guard
guard: bootstrap ## Stop the postmaster and fill the disks of the running lab's primary, with the guard and without
	$(PYTEST) -s molecule/default/journeys/test_guard.py

.PHONY: fencing
fencing: bootstrap ## Kill the primary's host of the running lab, with and without a command that confirms it
	$(PYTEST) -s molecule/default/journeys/test_fencing.py

.PHONY: sites
sites: bootstrap ## Adopt a standalone PostgreSQL and let two sites change places, on hosts of their own
	@tools/engine
	$(TEST_LAB) $(PYTEST) -s molecule/default/journeys/test_sites.py

.PHONY: updates
updates: bootstrap ## Update and restart all tiers of the running lab, under load
	@. tools/lib.sh && install_packages pgbench=postgresql
	$(PYTEST) -s molecule/default/journeys/test_postgresql_update.py

.PHONY: members
members: bootstrap ## Restart, rebuild, add, remove and replace members of the running lab, under load
	@. tools/lib.sh && install_packages pgbench=postgresql
	$(PYTEST) -s molecule/default/journeys/test_patroni_member.py molecule/default/journeys/test_postgresql_members.py

.PHONY: backups
backups: bootstrap ## Back up, restore, kill, fill and lose stores on the running lab (HOLDFAST_KILLS, 10; HOLDFAST_LOST_SECONDS, 15)
	$(PYTEST) -s molecule/default/journeys/test_backup.py

.PHONY: restores
restores: bootstrap ## Take PostgreSQL of the running lab to a time, LSN, transaction and name, again and again, killed as well (HOLDFAST_RESTORES, 3; HOLDFAST_KILLS, 10)
	$(PYTEST) -s molecule/default/journeys/test_restore.py

.PHONY: offsite
offsite: bootstrap ## Carry backups of the running lab to S3 and Azure Blob on this machine (packages from npm)
	$(PYTEST) -s molecule/default/journeys/test_offsite.py

.PHONY: valkey-backups
valkey-backups: bootstrap ## Back up, restore and drill Valkey on the running lab
	$(PYTEST) -s molecule/default/journeys/test_valkey_backup.py

.PHONY: backup-kills
backup-kills: bootstrap ## Kill backups and restores of Valkey at random points, ten times each
	HOLDFAST_KILLS=10 $(PYTEST) tests/module/valkey/test_backup.py -k killed

.PHONY: test-lab-hosts
test-lab-hosts:
	@$(TEST_LAB) $(MAKE) --no-print-directory lab-hosts

.PHONY: test-lab-bare
test-lab-bare: # Check mode must work where nothing is installed yet.
	@$(TEST_LAB) $(ANSIBLE_PLAYBOOK) playbooks/site.yml --check --diff

.PHONY: test-lab-up
test-lab-up:
	@$(TEST_LAB) $(MAKE) --no-print-directory lab

.PHONY: test-lab-verify
test-lab-verify:
	@$(TEST_LAB) $(PYTEST) molecule/default/tests

.PHONY: test-lab-faults
test-lab-faults:
	@$(TEST_LAB) $(MAKE) --no-print-directory faults FAULTS='--minutes 12'

.PHONY: test-lab-down
test-lab-down:
	@$(TEST_LAB) $(MAKE) --no-print-directory lab-down

# A fixed set of faults, each once; the lab has to stand. FAULTS narrows it: make faults FAULTS='--only postmaster Valkey'.
.PHONY: faults
faults: bootstrap ## Break the lab in every way while clients write, and check every write
	@PYTHONPATH=tests python -m faults.campaign --output .cache/faults/fixed $(FAULTS)

# Short schedules of faults by chance, the same for the same seed; results are added to those of earlier runs, a seed that has one is left out.
SEEDS ?= 1-100
.PHONY: faults-long
faults-long: bootstrap ## Break the lab by chance, a schedule for each of SEEDS, and add to the results
	@PYTHONPATH=tests python -m faults.campaign --seeds $(SEEDS) --output .cache/faults/long $(FAULTS)

.PHONY: bench
bench: bench-valkey bench-backup bench-events bench-pools bench-failover bench-install ## Run every benchmark and print its tables

.PHONY: bench-valkey
bench-valkey: bootstrap ## Measure forming and rebalancing of Valkey clusters against valkey-cli
	python tests/bench/valkey_formation.py
	python tests/bench/valkey_rebalance.py --version 8.1
	python tests/bench/valkey_rebalance.py --version 8.1 --from 6 --to 5
	python tests/bench/valkey_rebalance.py --version 9.1

.PHONY: bench-events
bench-events: bootstrap ## Measure exports and imports of event stores against pg_dump, pg_restore and Marten's own copy
	python tests/bench/events.py

.PHONY: bench-backup
bench-backup: bootstrap ## Measure backups and restores against what people do by hand
	python tests/bench/backup.py --version 9.1
	python tests/bench/backup_postgresql.py

.PHONY: bench-pools
bench-pools: bootstrap ## Measure what keeping clients of a connection apart costs, for each PgBouncer
	python tests/bench/pools.py

.PHONY: faults-page
faults-page: bootstrap ## Write docs/benchmarks/faults.md out of the results of bench-failover, faults and faults-long
	@PYTHONPATH=tests python -m faults.page

# What clients saw of each, five times; the medians are those of all runs in the folder.
BENCH_RUNS ?= 5
.PHONY: bench-failover
bench-failover: bootstrap ## Measure how long clients of the lab wait when what they use dies
	@PYTHONPATH=tests python -m faults.campaign --output .cache/faults/bench --runs $(BENCH_RUNS) --only 'postmaster killed' \
		"primary's host killed" 'primary half cut' 'primary cut off' 'balancer killed' 'planned switchover' 'replica killed' 'etcd follower killed' \
		'Valkey primary gone' 'Valkey replica killed' 'power loss'

.PHONY: bench-install
bench-install: bootstrap ## Measure an installation from bare hosts and a second run
	@python tests/bench/install.py
