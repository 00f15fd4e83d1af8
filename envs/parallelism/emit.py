"""Launch arguments of a plan, for the frameworks that run it."""

from __future__ import annotations

import json
from typing import Any

from tunewright.envs.parallelism.plans import Plan, evenly, problems, stage_layers
from tunewright.envs.parallelism.serving import ServePlan, Service
from tunewright.envs.parallelism.training import Job
from tunewright.errors import ConfigError, unknown

TRAIN = ("megatron", "deepspeed", "torchtitan")
SERVE = ("vllm", "sglang")


def emit_train(form: str, plan: Plan, job: Job) -> str:
    """Return the arguments that make a framework train by a plan; what it cannot do is said in a comment.

    Raises:
        ConfigError: the plan interleaves chunks that the framework refuses.
        UnknownNameError: the form is none of ``TRAIN``.
    """
    if form not in TRAIN:
        raise unknown("form for training plans", form, TRAIN)
    return {"megatron": _megatron, "deepspeed": _deepspeed, "torchtitan": _torchtitan}[form](plan, job)


def _megatron(plan: Plan, job: Job) -> str:
    model = job.model
    words = [
        f"--num-layers {model.layers}",
        f"--hidden-size {model.hidden}",
        f"--ffn-hidden-size {model.ffn}",
        f"--num-attention-heads {model.heads}",
        f"--seq-length {job.seq}",
        f"--micro-batch-size {plan.micro_batch}",
        f"--global-batch-size {job.global_batch}",
        f"--tensor-model-parallel-size {plan.tp}",
        f"--pipeline-model-parallel-size {plan.pp}",
        "--bf16",
    ]
    if model.kv_heads != model.heads and not model.kv_rank:
        words += ["--group-query-attention", f"--num-query-groups {model.kv_heads}"]
    if model.experts:
        words += [f"--num-experts {model.experts}", f"--moe-router-topk {model.top_k}"]
    if plan.ep > 1:
        words.append(f"--expert-model-parallel-size {plan.ep}")
    if plan.cp > 1:
        words.append(f"--context-parallel-size {plan.cp}")
    words += _megatron_stages(plan, job)
    if plan.sequence_parallel:
        words.append("--sequence-parallel")
    if plan.zero >= 1:
        words.append("--use-distributed-optimizer")
    if plan.overlap != "none":
        words += ["--overlap-grad-reduce", *(["--overlap-param-gather"] if plan.zero else [])]
    if plan.overlap == "all" and plan.tp > 1:
        words.append("--tp-comm-overlap")
    if plan.recompute == "full":
        words += ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
    elif plan.recompute == "selective":
        words.append("--recompute-granularity selective")
    if plan.offload:
        words += ["--optimizer-cpu-offload", "--use-precision-aware-optimizer"]
    if plan.precision == "fp8":
        words.append("--fp8-format hybrid")
    notes = []
    if plan.zero == 2:
        notes.append("# ZeRO-2: --use-custom-fsdp --data-parallel-sharding-strategy optim_grads")
    if plan.zero == 3:
        notes.append("# ZeRO-3: --use-custom-fsdp --data-parallel-sharding-strategy optim_grads_params")
    per_node = min(job.nodes.gpus, job.nodes.per_node)
    nodes = -(-job.nodes.gpus // job.nodes.per_node)
    launch = f"torchrun --nnodes {nodes} --nproc-per-node {per_node} pretrain_gpt.py"
    return "\n".join([*notes, " \\\n  ".join([launch, *words])])


def _megatron_stages(plan: Plan, job: Job) -> list[str]:
    """How layers are dealt out to stages, and to their chunks."""
    layers, pieces = job.model.layers, plan.pp * plan.chunks
    words = []
    if layers % pieces and evenly(layers, pieces, ends=job.calibration.embedding_slots):
        layers += 2
        words = ["--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"]
    if plan.chunks > 1:
        if layers % pieces:
            raise ConfigError("; ".join(problems(plan, job)))
        return [f"--num-layers-per-virtual-pipeline-stage {layers // pieces}", *words]
    if layers % pieces == 0:
        return words
    stages = "|".join(f"t*{count}" if count else "" for count in stage_layers(job, plan.pp))
    return [f'--pipeline-model-parallel-layout "E{stages}L"']


def _deepspeed(plan: Plan, job: Job) -> str:
    zero: dict[str, Any] = {"stage": plan.zero, "overlap_comm": plan.overlap != "none"}
    if plan.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    config: dict[str, Any] = {
        "train_batch_size": job.global_batch, "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": job.global_batch // (plan.dp * plan.micro_batch), "bf16": {"enabled": True},
        "zero_optimization": zero,
    }  # fmt: skip
    if plan.tp > 1:
        config["tensor_parallel"] = {"autotp_size": plan.tp}
    if plan.recompute != "none":
        config["activation_checkpointing"] = {"partition_activations": plan.sequence_parallel}
    notes = []
    if plan.pp > 1:
        notes.append(f"// pipeline stages: PipelineModule(num_stages={plan.pp}); DeepSpeed does not interleave them")
    if plan.cp > 1:
        notes.append(f"// context parallelism: sequence_parallel_size={plan.cp} (Ulysses)")
    if plan.ep > 1:
        notes.append(f"// experts: MoE(ep_size={plan.ep})")
    return "\n".join([*notes, json.dumps(config, indent=2)])


def _torchtitan(plan: Plan, job: Job) -> str:
    shard = plan.dp if plan.zero >= 1 else 1
    # left out, the first and the last stage get a layer less, and interleaving takes two chunks
    pieces = plan.pp * plan.chunks
    less = int(job.model.layers % pieces > 0 and job.calibration.embedding_slots)
    split = [f"pipeline_parallel_{end}_stage_less_layers = {less}" for end in ("first", "last") if plan.pp > 1]
    if plan.chunks > 1:
        split.append(f"pipeline_parallel_layers_per_stage = {-(-job.model.layers // pieces)}")
    recompute = {"none": "none", "selective": "selective", "full": "full"}[plan.recompute]
    lines = [
        "[training]",
        f"local_batch_size = {max(job.global_batch // plan.dp, 1)}",
        f"seq_len = {job.seq}",
        "",
        "[parallelism]",
        f"data_parallel_replicate_degree = {plan.dp // shard}",
        f"data_parallel_shard_degree = {shard}",
        f"tensor_parallel_degree = {plan.tp}",
        f"pipeline_parallel_degree = {plan.pp}",
        f'pipeline_parallel_schedule = "{"Interleaved1F1B" if plan.chunks > 1 else "1F1B"}"',
        *split,
        f"pipeline_parallel_microbatch_size = {plan.micro_batch}",
        f"context_parallel_degree = {plan.cp}",
        f"expert_parallel_degree = {plan.ep}",
        f'fsdp_reshard_after_forward = "{"always" if plan.zero == 3 else "never"}"',
        "",
        "[activation_checkpoint]",
        f'mode = "{recompute}"',
    ]
    if plan.precision == "fp8":
        lines += ["", "[model]", 'converters = ["float8"]']
    return "\n".join(lines)


def emit_serve(form: str, plan: ServePlan, service: Service, name: str) -> str:
    """Return the commands that start a serving plan, one for each kind of engine.

    Raises:
        ConfigError: the engine cannot run such a plan.
        UnknownNameError: the form is none of ``SERVE``.
    """
    if form not in SERVE:
        raise unknown("form for serving plans", form, SERVE)
    parts = [("decode" if plan.prefill else "", plan.engines), *([("prefill", plan.prefill)] if plan.prefill else [])]
    out = []
    for role, part in parts:
        if plan.prefill and part.pp > 1 and form == "sglang" and role == "decode":
            raise ConfigError("sglang does not combine pipeline stages with disaggregated decoding; take --emit vllm")
        words = (_vllm if form == "vllm" else _sglang)(plan, part, role, name, service)
        out += [
            f"# {part.count} of these{f', {role}' if role else ''}, {part.tp * part.pp * part.ranks} GPUs each",
            " \\\n  ".join(words),
            "",
        ]
    return "\n".join(out).rstrip()


def _vllm(plan: ServePlan, part: Any, role: str, name: str, service: Service) -> list[str]:
    words = [
        f"vllm serve {name}", f"--tensor-parallel-size {part.tp}", f"--pipeline-parallel-size {part.pp}",
        f"--max-num-seqs {plan.max_batch}", f"--max-num-batched-tokens {plan.max_tokens}",
        f"--gpu-memory-utilization {plan.kv_share:g}",
    ]  # fmt: skip
    if part.ranks > 1:
        words += [f"--data-parallel-size {part.ranks}", "--enable-expert-parallel"]
    if plan.precision == "fp8":
        words += ["--quantization fp8", "--kv-cache-dtype fp8"]
    if role:
        kind = "kv_producer" if role == "prefill" else "kv_consumer"
        words.append(f"""--kv-transfer-config '{{"kv_connector": "NixlConnector", "kv_role": "{kind}"}}'""")
    return words


def _sglang(plan: ServePlan, part: Any, role: str, name: str, service: Service) -> list[str]:
    words = [
        f"python -m sglang.launch_server --model-path {name}",
        f"--tp-size {part.tp * part.ranks}",
        f"--pp-size {part.pp}",
        f"--max-running-requests {plan.max_batch * part.ranks}",
        f"--chunked-prefill-size {plan.max_tokens}",
        f"--mem-fraction-static {plan.kv_share:g}",
    ]
    if part.ranks > 1:
        words += [f"--dp-size {part.ranks}", "--enable-dp-attention", f"--ep-size {part.ranks}"]
    if plan.precision == "fp8":
        words += ["--quantization fp8", "--kv-cache-dtype fp8_e4m3"]
    if role:
        words.append(f"--disaggregation-mode {role}")
    return words
