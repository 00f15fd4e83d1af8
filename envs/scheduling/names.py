"""Names of policies for the help of commands, which imports no simulator; a test compares them with the tables."""

SERVING = (
    "vllm", "fcfs", "static", "orca", "sarathi", "splitfuse", "sjf", "slo", "vtc", "fair", "fair-vllm", "conservative",
    "past-future", "batchllm", "prefix", "dualmap",
)  # fmt: skip
SPARK = ("fifo", "fair", "fair-jobs", "weighted", "sjf", "critical-path", "uwfq")
CLUSTER = (
    "fifo", "backfill", "conservative", "sjf", "sjf-backfill", "las", "best-fit", "fragmentation", "balance",
)  # fmt: skip
SERVERLESS = ("none", "fixed", "histogram")


def said(names: tuple[str, ...]) -> str:
    """Return names as a sentence lists them.

    >>> said(SERVERLESS)
    'none, fixed or histogram.'
    """
    return f"{', '.join(names[:-1])} or {names[-1]}."
