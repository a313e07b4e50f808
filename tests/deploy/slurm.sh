#!/usr/bin/env bash
# deploy/slurm/distill.sbatch on a real Slurm: munged, slurmctld and slurmd of Debian's packages, run by hand
# on this machine as one node, with files of their own. A job is trained by two workers; a second one is cut
# off by a time limit's signal and goes on in another allocation, to the same bits.
#
#   [KD_BUILD=build/release] tests/deploy/slurm.sh
#
# Wants root and slurmctld, slurmd, slurm-client, munge (deploy/install-deps.sh --deploy); else it ends with 77.
set -euo pipefail
case ${1-} in
-*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/../.."
((EUID == 0)) || { echo "skipped: slurmd wants root"; exit 77; }
for tool in slurmctld slurmd sbatch munged; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool (deploy/install-deps.sh --deploy)"; exit 77; }
done
build=$(realpath "${KD_BUILD:-build/release}")
PATH=$build:$PATH
DIR=$(mktemp -d /tmp/kd-slurm-XXXXXX)
pids=() serves=0
finish() {
    local rc=$? p i
    # Jobs outlive the daemons that started them.
    if ((serves)); then squeue -h -o %A | xargs -r scancel --full --signal=KILL || true; fi
    for ((i = 0; serves && i < 50; i++)); do
        [[ -n $(squeue -h) ]] || break
        sleep 0.2
    done
    ((rc == 0)) || tail -n 15 "$DIR"/*.log "$DIR"/*/worker*.log "$DIR"/*/distilld.log 2>/dev/null || true
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
    sleep 1
    for p in "${pids[@]}"; do kill -KILL "$p" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$DIR"
    exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM
fail() { echo "FAIL: $*"; exit 1; }
note() { echo "== $*"; }
await() { # SECONDS COMMAND...
    local i n=$1; shift
    for ((i = 0; i < 5 * n; i++)); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.2
    done
    fail "never came true: $*"
}

note "a Slurm of one node"
chmod 755 "$DIR"
mkdir -m 755 "$DIR/munge" "$DIR/ctld" "$DIR/d"
dd if=/dev/urandom of="$DIR/munge/key" bs=64 count=1 status=none
chmod 400 "$DIR/munge/key"
munged --foreground --force --key-file "$DIR/munge/key" --socket "$DIR/munge/socket" --pid-file "$DIR/munge/pid" \
    --log-file "$DIR/munged.log" --seed-file "$DIR/munge/seed" >/dev/null 2>&1 &
pids+=($!)
host=$(hostname -s)
ports=$(python3 - <<'PY'
import socket
s = [socket.socket() for _ in range(2)]
for x in s:
    x.bind(("", 0))
print(*(x.getsockname()[1] for x in s))
PY
)
cat >"$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports% *}
SlurmdPort=${ports#* }
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$DIR/ctld
SlurmdSpoolDir=$DIR/d
SlurmctldPidFile=$DIR/ctld.pid
SlurmdPidFile=$DIR/d.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
ReturnToService=2
SlurmctldParameters=enable_configless
MailProg=/bin/true
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
export SLURM_CONF=$DIR/slurm.conf
await 20 munge -n -S "$DIR/munge/socket"
slurmctld -D -f "$SLURM_CONF" >"$DIR/slurmctld.log" 2>&1 &
pids+=($!)
await 20 scontrol ping
slurmd -D -f "$SLURM_CONF" -N "$host" >"$DIR/slurmd.log" 2>&1 &
pids+=($!)
idle() { [[ $(sinfo -h -o %t) == idle* ]]; }
await 30 idle
serves=1

mkdir "$DIR/data"
distill data make flowers "$DIR/data/flowers" --size 32 --train 90 --val 37 --seed 5
cat >"$DIR/job.yaml" <<'YAML'
name: slurm
seed: 3
data: {labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, size: 32}}
teacher: {model: cheap_cnn, fine_tune: {epochs: 1, optimizer: {name: adam, lr: 1e-3}, batch_norm: trained}}
student: {model: cheap_cnn}
distill: {loss: {kd: 0.9, ce: 0.1, temperature: 5, t2: none}, optimizer: {name: adam, lr: 1e-3}, epochs: 30, batch: 16, slots: 4}
cluster: {min_workers: 2, checkpoint_every: 5}
YAML
export DISTILL_DATA_ROOT=$DIR/data
submit() { # NAME: two workers in one allocation
    sbatch --parsable --chdir="$DIR" --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --output="$DIR/$1.log" \
        --open-mode=append deploy/slurm/distill.sbatch "$DIR/job.yaml" "$DIR/$1"
}
ended() { [[ -z $(squeue -h -j "$1" -o %t 2>/dev/null) ]]; }
digest() { sed -n 's/.*student digest \([0-9a-f]\{32\}\).*/\1/p' "$DIR/$1.log" | tail -n 1; }
state() { scontrol -o show job "$1" | sed 's/.*JobState=\([A-Z]*\).*/\1/'; }

note "a job in one allocation"
id=$(submit whole)
await 300 ended "$id"
[[ $(state "$id") == COMPLETED ]] || fail "it ended as $(state "$id")"
[[ -s $DIR/whole/student.safetensors ]] || fail "no student"
[[ ! -e $DIR/whole/tokens ]] || fail "tokens are left behind"
grep -q 'joined: ' "$DIR/whole/worker-0.log" && grep -q 'joined: ' "$DIR/whole/worker-1.log" || fail "not two workers"
grep -q 'tls=yes' "$DIR/whole/distilld.log" || fail "plain text"

note "one that is cut off by its time limit, and goes on"
id=$(submit cut)
trained() { grep -q 'checkpoint of distill step' "$DIR/cut/distilld.log"; }
await 200 trained
scancel --signal=TERM --batch "$id" # as --signal=B:TERM@90 does before the limit
await 60 ended "$id"
[[ $(state "$id") == FAILED ]] || fail "it ended as $(state "$id")"
grep -q 'to go on' "$DIR/cut.log" || fail "nobody told how to go on"
grep -q 'worker left' "$DIR/cut/distilld.log" || fail "the workers did not leave in order"
[[ ! -e $DIR/cut/student.safetensors ]] || fail "it was over already"
id=$(submit cut)
await 300 ended "$id"
[[ $(state "$id") == COMPLETED ]] || fail "it ended as $(state "$id")"
[[ -n $(digest whole) && $(digest whole) == "$(digest cut)" ]] || fail "other bits: $(digest whole), $(digest cut)"
! grep -q 'second signal' "$DIR"/*/worker-*.log || fail "a worker was not left its time"
note "ok: two allocations made the student of one"
