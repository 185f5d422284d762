# The processes of the cluster. They and their children are in one cgroup, which finds them after a kill -9 and although
# containerd's shims leave their parents. To be sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $run_dir and $data_dir are set by cluster.sh

readonly cgroup=vl3-lb-cluster

# The parent folders of the cgroup: one with cgroup v2, one for each hierarchy with v1.
cgroup_roots() {
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        echo /sys/fs/cgroup
    else
        awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts
    fi
}

# The folder of the cgroup whose list of processes is used.
cgroup_of_processes() {
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        echo "/sys/fs/cgroup/$cgroup"
    else
        echo "/sys/fs/cgroup/pids/$cgroup"
    fi
}

make_cgroups() {
    local root n file
    for root in $(cgroup_roots); do
        # With v2 a cgroup has either processes or child cgroups.
        mkdir -p "$root/$cgroup/programs"
        for n in "${nodes[@]}"; do mkdir -p "$root/$cgroup/node$n"; done
        # With v1 a new cpuset is empty and accepts no process.
        for file in cpuset.cpus cpuset.mems; do
            [[ -e $root/$file && ! -e $root/cgroup.controllers ]] || continue
            local folder
            for folder in "$root/$cgroup" "$root/$cgroup"/*/; do cat "$root/$file" >"$folder/$file"; done
        done
    done
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        pass_controllers_down /sys/fs/cgroup
        pass_controllers_down "/sys/fs/cgroup/$cgroup"
    fi
}

# With v2 a parent must enable each controller for its children, and kubelet needs all available ones
# (https://docs.kernel.org/admin-guide/cgroup-v2.html, "Enabling and Disabling"). The root's controllers stay enabled
# when the cluster is removed, because other programs may use them by then.
pass_controllers_down() {
    local parent=$1 controller
    for controller in cpu cpuset hugetlb memory pids; do
        grep -qw "$controller" "$parent/cgroup.controllers" || continue
        # Enabled already.
        ! grep -qw "$controller" "$parent/cgroup.subtree_control" || continue
        echo "+$controller" 2>/dev/null >"$parent/cgroup.subtree_control" ||
            die "the cgroup controller $controller, which kubelet needs, cannot be enabled in $parent" \
                "containers often have read-only cgroups or processes in the root cgroup: use a physical or virtual machine"
    done
}

remove_cgroups() {
    local root
    for root in $(cgroup_roots); do
        [[ -d $root/$cgroup ]] || continue
        # A process stays in it for a moment after its end.
        within 5 remove_cgroup "$root/$cgroup" || note "$root/$cgroup cannot be removed: a process is still in it"
    done
}

remove_cgroup() {
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    [[ ! -d $1 ]]
}

# start NAME NAMESPACE COMMAND...: runs a program in the background. It has its own session, so that Ctrl-C does not reach
# it; its output goes to log/NAME.log and its process id to pids/NAME.
start() {
    local name=$1 namespace=$2
    shift 2
    # shellcheck disable=SC2016 # the inner shell expands it
    setsid bash -c 'echo $$ >"$1/programs/cgroup.procs" && echo $$ >"$2" && shift 2 && exec "$@"' - \
        "$(cgroup_of_processes)" "$run_dir/pids/$name" \
        nsenter --net="/run/netns/$prefix-$namespace" "$@" </dev/null >>"$run_dir/log/$name.log" 2>&1 9>&- &
    disown $!
}

# Kills one program; its children continue.
stop_process() {
    local pid
    pid=$(<"$run_dir/pids/$1")
    grep -qx "$pid" "$(cgroup_of_processes)/programs/cgroup.procs" || die "$1 does not run"
    kill -KILL "$pid"
    within 5 test ! -e "/proc/$pid"
}

# Ends all processes, first those that start others.
stop_processes() {
    local name pid folder
    folder=$(cgroup_of_processes)
    for name in "$run_dir"/pids/kubelet-* "$run_dir"/pids/containerd-*; do
        [[ -e $name ]] || continue
        pid=$(<"$name")
        # Another process may have its id by now.
        ! grep -qsx "$pid" "$folder/programs/cgroup.procs" || kill -KILL "$pid" 2>/dev/null || true
    done
    [[ ! -d $folder ]] || within 20 kill_all "$folder" || note "processes in $folder do not end"
}

# Succeeds when no process is left.
kill_all() {
    local pids
    mapfile -t pids < <(find "$1" -name cgroup.procs -exec cat {} + 2>/dev/null)
    ((${#pids[@]} > 0)) || return 0
    kill -KILL "${pids[@]}" 2>/dev/null || true
    return 1
}

# Unmounts in reverse order of depth.
unmount_below() {
    local folder point
    for folder in "$@"; do
        awk -v folder="$folder/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r |
            while read -r point; do umount -l "$point" 2>/dev/null || true; done
    done
}

# Kernel settings of the machine that kubelet changes.
readonly kernel_settings=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops)

keep_kernel_settings() {
    local setting
    for setting in "${kernel_settings[@]}"; do
        echo "$setting $(<"/proc/sys/$setting")"
    done >"$data_dir/kernel-settings"
}

restore_kernel_settings() {
    [[ -e $data_dir/kernel-settings ]] || return 0
    local setting value
    while read -r setting value; do
        [[ $(<"/proc/sys/$setting") == "$value" ]] || echo "$value" >"/proc/sys/$setting"
    done <"$data_dir/kernel-settings"
}
