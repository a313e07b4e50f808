# Sourced by the cases in tests/fault/net: the coordinator and each worker in a network namespace of its
# own, on a bridge that has one, too, so that nothing of the machine's network is touched.
#
#     co 10.77.0.1 --+
#     w1 10.77.0.11 -+-- bridge
#     w2 10.77.0.12 -+
#
# tbf shapes, nft drops and resets; netem is not needed.
CASE=$(realpath "$0")
# Its own first comment.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$CASE"; }
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/fault/fault.sh

# A case that cannot run says so with 77.
for tool in ip tc nft; do
    command -v $tool >/dev/null || {
        echo "skipped: $tool is missing (deploy/install-deps.sh --test)"
        exit 77
    }
done
if [ "$(id -u)" -ne 0 ]; then
    echo "skipped: network namespaces need root"
    exit 77
fi

NET=kdf$$
SPACES=()
HOST=10.77.0.1
# Plain text, in a network of the test's own.
export DISTILLD_INSECURE=true DISTILL_INSECURE=1
WANT=$DIR/want
TOLD=$DIR/told

net_down() {
    local s
    for s in "${SPACES[@]}"; do ip netns del "$NET-$s" 2>/dev/null || true; done
}
trap 'finish_after net_down' EXIT
trap 'exit 130' INT TERM

in_space() { # NAME COMMAND...
    local name=$1
    shift
    ip netns exec "$NET-$name" "$@"
}

space() {
    ip netns add "$NET-$1" || {
        echo "skipped: no network namespace can be made here"
        exit 77
    }
    SPACES+=("$1")
    in_space "$1" ip link set lo up
}

# plug NAME ADDRESS: a namespace on the bridge.
plug() {
    space "$1"
    ip link add eth0 netns "$NET-$1" type veth peer name "$1" netns "$NET-bridge"
    in_space bridge ip link set "$1" master br0 up
    # Real packets, or a dropped one would be 64 KiB at once.
    in_space bridge ip link set "$1" gso_max_segs 1
    in_space "$1" ip link set eth0 gso_max_segs 1
    in_space "$1" ip addr add "$2/24" dev eth0
    in_space "$1" ip link set eth0 up
}

net_up() { # N workers
    local i
    space bridge
    in_space bridge ip link add br0 type bridge
    in_space bridge ip link set br0 up
    plug co $HOST
    for i in $(seq "$1"); do plug "w$i" "10.77.0.1$i"; done
}

# The client sits beside the coordinator.
distill() { in_space co "$BUILD/distill" "$@"; }
# Seen by await_workers, which calls the program by its path.
workers_there() { distill workers -o json | grep -c '"name"' || true; }

net_cluster() { # N: the network, the daemons, and what an undisturbed job comes to
    local i job
    net_up "$1"
    fault_data
    AROUND_COORDINATOR=(ip netns exec "$NET-co")
    coordinator
    for i in $(seq "$1"); do
        AROUND_WORKER=(ip netns exec "$NET-w$i")
        worker "w$i"
    done
    await_workers "$1"
    job=$(net_submit)
    ended "$job"
    undisturbed "$job"
}

net_submit() { submit --set distill.epochs=8; }
# net_job N: the network and a job, which stands in $job, in its first steps.
net_job() {
    net_cluster "$1"
    job=$(net_submit)
    await_steps "$job" teacher 2
}

# net_same JOB TEXT...
net_same() {
    : >"$TOLD"
    same "$@"
    cat "$TOLD"
}

# ---- faults. All rules of a namespace are in one table, so that `heal` finds them.

rules() { # NAME CHAIN STATEMENT...
    local name=$1 chain=$2
    shift 2
    in_space "$name" nft -f - <<END
add table inet fault
add chain inet fault $chain { type filter hook $chain priority 0; policy accept; }
add rule inet fault $chain $*
END
}
heal() { in_space "$1" nft delete table inet fault; }
# How many packets a namespace's rules have met.
met() { in_space "$1" nft list table inet fault | grep -oE 'packets [0-9]+' | awk '{ n += $2 } END { print n + 0 }'; }

lose() { # NAME PER_MILLE: of what comes and what goes
    rules "$1" input iifname eth0 numgen random mod 1000 \< "$2" counter drop
    rules "$1" output oifname eth0 numgen random mod 1000 \< "$2" counter drop
}
cut_in() { rules "$1" input iifname eth0 counter drop; }
cut_out() { rules "$1" output oifname eth0 counter drop; }
cut_off() {
    cut_in "$1"
    cut_out "$1"
}
must_have_met() { [ "$(met "$1")" -gt 0 ] || fail "no packet was dropped"; }
# A packet in so many is answered with a reset, at both ends of the connection.
reset_some() { # NAME PER_MILLE
    rules "$1" input iifname eth0 meta l4proto tcp numgen random mod 1000 \< "$2" counter reject with tcp reset
    rules "$1" output oifname eth0 meta l4proto tcp numgen random mod 1000 \< "$2" counter reject with tcp reset
}
shape() { in_space "$1" tc qdisc replace dev eth0 root tbf rate "$2" burst 32kbit latency 50ms; }

lost() { distill events "$1" | grep -c 'worker lost' || true; }
