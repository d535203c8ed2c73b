#!/usr/bin/env bash
# A private SLURM cluster on one machine, for tests and demos: several nodes and simulated GPUs, without system daemons
# or files outside of DIR. Needs Debian's slurmctld, slurmd, slurm-client and munge.
#
#   slurm/local_cluster.sh start DIR [nodes=2] [cpus=2] [gpus=0]    then: . DIR/env.sh
#   slurm/local_cluster.sh stop DIR
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }

start() {
    local dir nodes=$2 cpus=$3 gpus=$4
    local tool
    for tool in munged slurmctld slurmd sbatch; do
        PATH=$PATH:/usr/sbin command -v "$tool" > /dev/null || {
            echo "$tool is missing: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 3; }
    done
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    if [ -s "$dir/slurmctld.pid" ] && kill -0 "$(cat "$dir/slurmctld.pid")" 2> /dev/null; then
        echo "a cluster runs in $dir already: slurm/local_cluster.sh stop $dir" >&2; exit 3
    fi
    mkdir -p "$dir"/{munge,state,log}
    chmod 755 "$dir" "$dir/munge"
    configure "$dir" "$nodes" "$cpus" "$gpus"
    if [ ! -s "$dir/munge/key" ]; then (umask 077; head -c 1024 /dev/urandom > "$dir/munge/key"); fi
    munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/munged.pid" \
        --log-file="$dir/munge/munged.log" --seed-file="$dir/munge/seed"
    export SLURM_CONF=$dir/slurm.conf
    echo "export SLURM_CONF=$dir/slurm.conf" > "$dir/env.sh"
    slurmctld -c -f "$SLURM_CONF"
    local n
    for n in $(seq 1 "$nodes"); do
        mkdir -p "$dir/spool/n$n"
        slurmd -c -N "n$n" -f "$SLURM_CONF"
    done
    for _ in $(seq 1 300); do
        if [ "$(sinfo -h -N -p main -o %T 2> /dev/null | grep -c '^idle$')" = "$nodes" ]; then
            echo "$nodes nodes with $cpus CPUs and $gpus GPUs: . $dir/env.sh"
            return
        fi
        sleep 0.1
    done
    echo "the cluster did not come up; the ends of its logs:" >&2
    tail -n 5 "$dir"/log/*.log >&2
    stop "$dir"
    exit 1
}

# Ports are derived from the folder's name, so that several clusters can run on one machine.
configure() {
    local dir=$1 nodes=$2 cpus=$3 gpus=$4 host memory port n g
    host=$(hostname -s)
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    port=${ZOO_EXP_SLURM_PORT:-$((20000 + $(cksum <<< "$dir" | cut -d' ' -f1) % 20000))}
    echo "CgroupAutomount=no" > "$dir/cgroup.conf"
    : > "$dir/gres.conf"
    local nodes_line="NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))]"
    [ "$nodes" = 1 ] && nodes_line="NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1))"
    nodes_line="$nodes_line CPUs=$cpus RealMemory=$memory"
    if [ "$gpus" != 0 ]; then
        nodes_line="$nodes_line Gres=gpu:$gpus"
        for n in $(seq 1 "$nodes"); do
            mkdir -p "$dir/gpu/n$n"
            for g in $(seq 0 $((gpus - 1))); do
                # A fake device, sufficient for SLURM to count GPUs and to set CUDA_VISIBLE_DEVICES.
                [ -e "$dir/gpu/n$n/nvidia$g" ] || mknod "$dir/gpu/n$n/nvidia$g" c 1 3
                echo "NodeName=n$n Name=gpu File=$dir/gpu/n$n/nvidia$g" >> "$dir/gres.conf"
            done
        done
    fi
    cat > "$dir/slurm.conf" << CONF
ClusterName=zoo
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for the lifetime of a credential: 2 minutes by default, 5 seconds here.
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
# Without systemd and cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
# Every node may use the whole machine.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=3600
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
InactiveLimit=0
Waittime=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.log
GresTypes=gpu
$nodes_line State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=600 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=urgent Nodes=ALL MaxTime=600 State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

# Stops the jobs, then the daemons started by `start`, using their PID files.
stop() {
    local dir file pid
    [ -d "$1" ] || { echo "no folder $1" >&2; exit 2; }
    dir=$(cd "$1" && pwd)
    export SLURM_CONF=$dir/slurm.conf
    if [ -s "$dir/slurmctld.pid" ] && kill -0 "$(cat "$dir/slurmctld.pid")" 2> /dev/null; then
        timeout 10 scancel --user="$(id -un)" --signal=KILL --full 2> /dev/null || true
        timeout 10 scancel --user="$(id -un)" 2> /dev/null || true
        for _ in $(seq 1 50); do
            [ -z "$(timeout 5 squeue -h 2> /dev/null)" ] && break
            sleep 0.1
        done
    fi
    for file in "$dir"/slurmd-*.pid "$dir"/slurmctld.pid "$dir"/munge/munged.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2> /dev/null || continue
        for _ in $(seq 1 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2> /dev/null || true
        rm -f "$file"
    done
}

export PATH=$PATH:/usr/sbin
case "${1:-}" in
    start) [ $# -ge 2 ] || usage; start "$2" "${3:-2}" "${4:-2}" "${5:-0}" ;;
    stop) [ $# -eq 2 ] || usage; stop "$2" ;;
    *) usage ;;
esac
