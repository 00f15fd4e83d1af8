"""The machine below a target: kernel settings and control groups as parameters that are always put back."""
