"""What a Snakemake profile says of the machines: the type of their GPUs, the longest time limit, and GPUs by rule.

The keys `gpu_model` and `max_runtime` stand among the profile's default-resources, where every rule would get them;
the functions here give them to jobs as they apply.
"""

import sys
from math import inf
from typing import Any


def lift_limit_of_cores(workflow: Any) -> None:
    """Let a cluster's jobs have their own node's cores: the default profile's `cores: all` are this machine's."""
    if workflow.global_resources["_nodes"].value is not None:
        workflow.global_resources["_cores"] = sys.maxsize


class Machines:
    """The settings of the running workflow that its profile or its command line gave."""

    def __init__(self, workflow: Any = None) -> None:
        self.workflow = workflow

    def default(self, name: str) -> Any:
        """An entry of default-resources as it was written, or None."""
        given = self.workflow.resource_settings.default_resources if self.workflow else None
        return given[name].raw if given and name in given.keys() else None  # noqa: SIM118 - it has no __contains__

    def has_gpu(self, rule: str, formula: int) -> bool:
        """Whether a job of the rule gets a GPU: by set-resources, else by its formula."""
        overwritten = self.workflow.resource_settings.overwrite_resources.get(rule, {}) if self.workflow else {}
        given = overwritten["gpu"].raw if "gpu" in overwritten else formula
        return str(given) != "0"

    def gpu_model(self, rule: str, formula: int) -> str | None:
        """The type of GPU, for jobs that get one; without the key, any type."""
        return self.default("gpu_model") if self.has_gpu(rule, formula) else None

    def longest(self, rule: str) -> float:
        """The longest time limit of a job in minutes; rules of one group share it, as they run one after another."""
        longest = self.default("max_runtime")
        if longest is None:
            return inf
        groups = self.workflow.group_settings.overwrite_groups
        members = [name for name, group in groups.items() if rule in groups and group == groups[rule]]
        variants = {name for name in members for other in members if name.startswith(f"{other}_")}  # in place of it
        return int(longest) // max(1, len(members) - len(variants))
