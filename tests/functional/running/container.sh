#!/usr/bin/env bash
# A command where containers put one: a uid that nobody knows, an empty home and /tmp in memory, one core by quota,
# 64 MiB of /dev/shm, umask 077, the C locale, 40 columns, and nothing else in the environment. Needs root.
#
#     container.sh FOLDER NEEDED... -- COMMAND...
#
# FOLDER is where the command runs, and becomes its own; NEEDED are the folders that it reads besides the system's, such
# as those of the interpreter. Says on standard error what keeps it to one core. The exit code is the command's.
set -euo pipefail
uid=54321

start() {
    local parent group='' code=0
    chown -R $uid:$uid "$1"
    for parent in /sys/fs/cgroup/cpu /sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup; do
        mkdir "$parent/sweeper-$$" 2>/dev/null || continue
        group=$parent/sweeper-$$
        if quota "$group" 2>/dev/null; then break; fi
        rmdir "$group"
        group=''
    done
    if [[ $group ]]; then
        echo "one core: by the quota of $group" >&2
    else
        echo "one core: by affinity, as no control group can be made here" >&2
        taskset --cpu-list --pid "$(taskset --cpu-list --pid $$ | grep -o '[0-9]*$')" $$ >/dev/null
    fi
    (
        if [[ $group ]]; then echo "$BASHPID" >"$group/cgroup.procs"; fi
        exec unshare --mount --ipc --pid --fork --mount-proc --kill-child "$0" --inside "$@"
    ) || code=$?
    for _ in {1..50}; do
        if [[ ! $group ]] || rmdir "$group" 2>/dev/null; then break; fi
        sleep 0.1
    done
    return $code
}

quota() {
    if [[ -e $1/cpu.cfs_quota_us ]]; then
        echo 100000 >"$1/cpu.cfs_period_us" && echo 100000 >"$1/cpu.cfs_quota_us"
    else
        echo '100000 100000' >"$1/cpu.max"
    fi
}

inside() {
    local folder=$1 needed=() path
    while [[ $1 != -- ]]; do
        needed+=("$(realpath "$1")")
        shift
    done
    shift
    mount -t tmpfs -o size=64m,mode=1777 shm /dev/shm
    hide /tmp 1777 "${needed[@]}"
    for path in "${needed[@]}"; do open_up "$path" "${needed[@]}"; done
    mkdir /tmp/home
    chown $uid:$uid /tmp/home
    cd "$folder"
    umask 077
    exec env --ignore-environment PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp/home LC_ALL=C COLUMNS=40 \
        setpriv --reuid $uid --regid $uid --clear-groups --no-new-privs --bounding-set=-all "$@"
}

# Mount an empty folder in memory over $1, with mode $2, and put back there what is needed of it.
hide() {
    local hidden=$1 mode=$2 path at handles=() paths=()
    shift 2
    for path in "$@"; do
        if [[ $path/ == "$hidden"/* ]]; then
            exec {at}<"$path"
            handles+=("$at") paths+=("$path")
        fi
    done
    mount -t tmpfs -o "mode=$mode" hidden "$hidden"
    for at in "${!paths[@]}"; do
        mkdir -p "${paths[at]}"
        mount --no-canonicalize --bind "/proc/self/fd/${handles[at]}" "${paths[at]}"
        exec {handles[at]}<&-
    done
}

# Let others enter what lies above $1: a folder that only its owner may enter is hidden but for what is needed of it.
open_up() {
    local path=$1 above
    shift
    above=$path
    while [[ $above != / ]]; do
        above=$(dirname "$above")
        if ! setpriv --reuid $uid --regid $uid --clear-groups test -x "$above"; then hide "$above" 0755 "$@"; fi
    done
}

if [[ $1 == --inside ]]; then
    shift
    inside "$@"
else
    start "$@"
fi
