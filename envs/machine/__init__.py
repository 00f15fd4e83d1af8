"""The machine below a target: kernel settings and control groups as parameters that are always put back."""

#: keys of a description's parameter that say that it is such a setting
KINDS = ("sysctl", "sysfs", "cgroup")
