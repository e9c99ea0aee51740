# SPDX-License-Identifier: Apache-2.0
# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export HOLDFAST_LAB ?= holdfast
export HOLDFAST_LAB_DIR ?= $(CURDIR)/.lab
export HOLDFAST_SUITE ?= trixie
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MOLECULE_EPHEMERAL_DIRECTORY = $(CURDIR)/.cache/molecule/$(HOLDFAST_LAB)

ANSIBLE_PLAYBOOK = ansible-playbook --inventory inventories/lab

.PHONY: help
help: ## List the commands
	@grep --no-filename --extended-regexp '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed --regexp-extended 's/:.*## /\t/' | expand --tabs=16

.PHONY: bootstrap
bootstrap: ## Make .venv and the collection link
	@tools/bootstrap

.PHONY: lab-hosts
lab-hosts: bootstrap ## Start the lab's bare hosts
	@tools/engine
	@$(ANSIBLE_PLAYBOOK) molecule/default/create.yml

.PHONY: lab
lab: ## Bring the whole stack up on this machine and show it
	@tools/lab

.PHONY: site
site: bootstrap ## Run site.yml against the lab
	@$(ANSIBLE_PLAYBOOK) playbooks/site.yml

.PHONY: status
status: ## Show the lab
	@$(ANSIBLE_PLAYBOOK) playbooks/status.yml

.PHONY: lab-down
lab-down: bootstrap ## Remove every trace of the lab
	@tools/engine
	@$(ANSIBLE_PLAYBOOK) molecule/default/destroy.yml

include tools/test.mk
