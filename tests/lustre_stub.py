"""Stands in for lfs, lctl, mount and umount: keeps a file system's state in a file, and takes nothing that is not legal."""

import json
import os
import re
import sys
from pathlib import Path

STATE = Path(os.environ["LUSTRE_STUB"])
OSTS = 3
DEFAULTS = {
    "llite.lfs1-ff.max_read_ahead_mb": 1024, "llite.lfs1-ff.max_read_ahead_per_file_mb": 256,
    "llite.lfs1-ff.max_read_ahead_whole_mb": 64, "llite.lfs1-ff.statahead_max": 32,
    **{f"osc.lfs1-OST000{k}-osc-ff.max_rpcs_in_flight": 8 for k in range(OSTS)},
    **{f"osc.lfs1-OST000{k}-osc-ff.max_dirty_mb": 2000 for k in range(OSTS)},
    **{f"osc.lfs1-OST000{k}-osc-ff.max_pages_per_rpc": 256 for k in range(OSTS)},
    "mdc.lfs1-MDT0000-mdc-ff.max_rpcs_in_flight": 8, "mdc.lfs1-MDT0000-mdc-ff.max_mod_rpcs_in_flight": 7,
    "mdc.lfs1-MDT0000-mdc-ff.max_dirty_mb": 2000, "mdc.lfs1-MDT0000-mdc-ff.max_pages_per_rpc": 256,
    "osc.other-OST0000-osc-aa.max_rpcs_in_flight": 5,
}  # fmt: skip
MOST = {
    "max_rpcs_in_flight": 256,
    "max_mod_rpcs_in_flight": 256,
    "max_pages_per_rpc": 4096,
    "max_dirty_mb": 2047,
    "statahead_max": 8192,
}


def refuse(words):
    with (STATE.parent / "refused").open("a") as file:
        file.write(words + "\n")
    print(f"error: {words}", file=sys.stderr)
    sys.exit(22)


def set_one(state, wanted):
    values = state["values"]
    device, _, value = wanted.partition("=")
    name = device.rpartition(".")[2]
    if device not in values or not value.isdigit() or int(value) > MOST.get(name, 2**20):
        refuse(f"set_param {wanted}")
    after = {**values, device: int(value)}
    if after["mdc.lfs1-MDT0000-mdc-ff.max_mod_rpcs_in_flight"] >= after["mdc.lfs1-MDT0000-mdc-ff.max_rpcs_in_flight"]:
        refuse(f"modifying RPCs must stay below: {wanted}")
    if after["llite.lfs1-ff.max_read_ahead_per_file_mb"] > after["llite.lfs1-ff.max_read_ahead_mb"]:
        refuse(f"read-ahead of a file above that of all: {wanted}")
    if os.environ.get("LUSTRE_STUB_DEAF") != name:
        state["values"] = after
    print(wanted)


def main():
    tool, words = Path(sys.argv[0]).name, sys.argv[1:]
    state = json.loads(STATE.read_text()) if STATE.exists() else {"values": dict(DEFAULTS), "layouts": {}, "calls": []}
    state["calls"].append([tool, *words])
    values = state["values"]
    if tool == "lfs" and words[:1] == ["getname"] and len(words) == 2:
        print(f"lfs1-ff {STATE.parent / 'mnt'}")
    elif tool == "lfs" and words[:1] == ["osts"]:
        print(
            "OBDS:\n"
            + "\n".join(f"{k}: lfs1-OST000{k}_UUID ACTIVE" for k in range(OSTS))
            + "\n3: lfs1-OST0003_UUID INACTIVE"
        )
    elif tool == "lfs" and words[:2] == ["getstripe", "-d"] and Path(words[2]).is_dir():
        count, size = state["layouts"].get(words[2], [1, 1048576])
        print(f"stripe_count:  {count} stripe_size:   {size} pattern:       raid0 stripe_offset: -1")
    elif tool == "lfs" and words[:1] == ["setstripe"]:
        flags = dict(zip(words[1:5:2], words[2:5:2], strict=True))
        if set(flags) != {"-c", "-S"} or len(words) != 6 or not Path(words[5]).is_dir():
            refuse(f"setstripe {words}")
        if (
            not (flags["-c"] == "-1" or 1 <= int(flags["-c"]) <= OSTS)
            or int(flags["-S"]) % 65536
            or int(flags["-S"]) <= 0
        ):
            refuse(f"layout {flags}")
        state["layouts"][words[5]] = [int(flags["-c"]), int(flags["-S"])]
    elif tool == "lctl" and words[:1] == ["get_param"] and len(words) > 1:
        for asked in words[1:]:
            pattern = re.escape(asked).replace(r"\*", "[^.]*")
            found = [f"{d}={v}" for d, v in values.items() if re.fullmatch(pattern, d)]
            if not found:
                print(f"error: get_param: param_path '{asked}': No such file or directory", file=sys.stderr)
                sys.exit(2)
            print("\n".join(found))
    elif tool == "lctl" and words == ["set_param", "ldlm.namespaces.*.lru_size=clear"]:
        pass
    elif tool == "lctl" and words[:1] == ["set_param"] and len(words) > 1:
        for wanted in words[1:]:
            set_one(state, wanted)
    elif tool == "umount" and words == [str(STATE.parent / "mnt")] and not state.get("down"):
        state["down"] = True
    elif tool == "mount" and words[:2] == ["-t", "lustre"] and state.get("down"):
        state["values"], state["down"] = dict(DEFAULTS), False  # what was set is lost with the mount
    else:
        refuse(f"{tool} {words}")
    partial = STATE.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(state))
    partial.replace(STATE)


if __name__ == "__main__":
    main()
