#!/usr/bin/env bash
# Breaks one rule of the protocol at a time and sees that the simulation notices.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/sim/mutants.sh [--build DIR] [--seeds N] [--list] [NAME...]

Copies the coordinator's and the worker's sources, changes one place for each mutant (a place that is not there
exactly once is an error), builds test_sim of them and runs N seeds (5000). A mutant that comes through is
a failure. --build: a build folder with the preset's libraries (build/dev).
END
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build/dev seeds=5000 list=no
wanted=()
while (($#)); do
    case $1 in
    --build) build=$2 && shift ;;
    --seeds) seeds=$2 && shift ;;
    --list) list=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*)
        printf 'mutants: unknown flag %s; --help shows them\n' "$1" >&2
        exit 2
        ;;
    *) wanted+=("$1") ;;
    esac
    shift
done

# NAME | what it breaks | FILE, then pairs of texts: what stands there and what stands there instead.
names=() about=() files=() from=() to=()
mutant() {
    names+=("$1") about+=("$2") files+=("$3") from+=("$4") to+=("$5")
}
mutant HALF 'units run on a version that is not whole' worker/part.c \
    'whole = p->missing == 0 && p->goal' 'whole = p->missing <= 1 && p->goal'
mutant OLDCOURSE 'an answer from before the stage went on from elsewhere counts' worker/part.c \
    'if (t->generation < p->fresh_from && t->kind != KD_TODO_PUSH)' 'if (false)'
mutant DROP_EARLY 'the journal goes before the checkpoint is the manifest' server/journal.c \
    'int rc = new_file(j, step, diag);' 'int rc = new_file(j, step, diag); if (rc == 0) kd_journal_cut(j, step);'
mutant MAXJ 'the journal ends where one chunk ends' server/journal.c \
    'if (!kd_journal_has(j, step, k))' 'if (k == 0 && !kd_journal_has(j, step, k))'
mutant SENDFIRST 'a sum leaves without its record in the journal' server/exchange_sums.c \
    'if (!x->logged[k] && x->journal &&' 'if (!x->logged[k] && x->journal && k != x->cfg.chunks - 1 &&'
mutant LOSTUNITS 'units of who is gone are given to nobody' server/core_step.c \
    'if (step->done_ms[s] || there)' 'if (step->done_ms[s] || there || !j->fresh)'
mutant NO_REPUB 'an owner that is ahead does not publish again after a restart' worker/part.c \
    'c->slice.version = c->ahead ? c->label : 0;' 'c->slice.version = 0;'
mutant KEEPNEWER 'what is newer than where the stage goes on from is kept' worker/part.c \
    '        if (!keeps)' '        if (!keeps && c->label == 0)'
mutant DOUBLEADD 'a repeated gradient is added again' server/exchange_sums.c \
    '    if (node->filled) {' '    if (node->filled && node->pushed && head->node == 0) {'
mutant STALEPUSH 'a gradient of an earlier step counts' server/exchange_sums.c \
    'bool late = head->step + 1 == x->version;' 'bool late = false; uint64_t step = head->step; ((Distill__V1__NodeChunk *)head)->step = step + 1 == x->version ? x->version : step;'
mutant LEAVE_EVALUATION 'sums leave before the evaluation is there' server/exchange_sums.c \
    'return x->current && !evaluating &&' 'return x->current && (!evaluating || evaluating) &&'
mutant TORN 'a version is saved although some of its slices came without state' server/exchange.c \
    'if (x->open && !x->sums_left && x->missing == x->cfg.chunks)' 'if (x->open && !x->sums_left)'
mutant NOREBUILD 'a new owner begins with the initial parameters at any version' worker/part.c \
    '        c->label = 1;' '        c->label = p->goal;'
mutant NOSCALE 'older sums come without their clip factor' server/exchange_sums.c \
    '        m.step = req->step;' '        m.scale = 1; m.step = req->step;'
mutant WIDE_WORKER 'a worker adds its units up without rounding the sums to bfloat16' worker/tree.c \
    'if (r->bfloat16)' 'if (false)'
mutant WIDE_SUMS 'the coordinator adds nodes up without rounding the sums' server/exchange_sums.c \
    'kd_bfloat16_add(left, right, n);' 'for (size_t i = 0; i < n; i++) left[i] += right[i];'
mutant EARLY_LEAVE 'who leaves is let go although units of the step are its own' server/core_step.c \
    'm->leaving && (j->reshape || !runs_units(j, m->id))' 'm->leaving'
mutant OLDSLICE 'a slice that all have is refused for ever' server/exchange_versions.c \
    '        reply.duplicate = true;
        kd_xc_answer(call, &reply, NULL, 0);' '        kd_rpc_finish(call, -KD_ESTALE, "");'
mutant STUCK_CALLS 'calls of before go on to count as under way after a fresh start' worker/part.c \
    'c->busy_slice = c->busy_sum = c->busy_base = c->busy_publish = false;' ''
mutant RUN_AHEAD 'an owner that is ahead of the journal drops the units that its sum is made of' worker/part.c \
    '!p->chunks[k].ahead' 'true'
mutant SAME_HAND 'a second run may be given to who made the first' server/core_step.c \
    'j->runner[s] = by->id;' ''
mutant UNFRESH 'who comes back goes on from what it held' server/core_step.c \
    'first || j->push_again || parts[r].fresh' 'first || j->push_again'

if [[ $list == yes ]]; then
    for i in "${!names[@]}"; do printf '%-18s %s\n' "${names[i]}" "${about[i]}"; done
    exit 0
fi
[[ -e $build/tests/test_sim ]] || {
    printf 'mutants: there is no %s/tests/test_sim; build it first\n' "$build" >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sources=(server/core.c server/core_jobs.c server/core_schedule.c server/core_step.c server/ids.c
    server/exchange.c server/exchange_sums.c server/exchange_versions.c server/journal.c worker/part.c worker/tree.c
    tests/sim/sim.c tests/sim/sim_{world,network,worker,coordinator}.c tests/sim/test_sim.c)
flags=(-O1 -g -std=gnu17 -D_GNU_SOURCE -DKD_VERSION='"mutant"' -ffp-contract=off -fsanitize=address,undefined -w
    -Itests/sim -Iserver -Iworker -Itests/support -Ilib/include -Ilib "-I$build/gen")
mapfile -t libraries < <(find "$build" -name 'libkd_wire.a' -o -name 'libkd_base.a' -o -name 'libkd_test_support.a' \
    -o -name 'libkd_proto*.a' -o -name 'libkd_*proto*.a' | sort -u)
compile() { # SOURCE OBJECT
    cc "${flags[@]}" -c "$1" -o "$2"
}
link() { # OBJECTS... -> $work/sim
    cc -fsanitize=address,undefined -o "$work/sim" "$@" -Wl,--start-group "${libraries[@]}" -Wl,--end-group \
        -lcmocka -lprotobuf-c -lxxhash -ljansson -lcrypto -lm -lpthread
}
for s in "${sources[@]}"; do compile "$s" "$work/$(basename "$s").o"; done

# survives: neither the drawn seeds nor those with an odd worker break a promise.
survives() {
    local seed
    export ASAN_OPTIONS=detect_leaks=0
    timeout 300 "$work/sim" --seeds "$seeds" >"$work/log" 2>&1 || return 1
    for seed in {1..150}; do timeout 60 "$work/sim" --odd "$seed" >"$work/log" 2>&1 || return 1; done
}

failed=0
printf '%-18s %-70s %s\n' MUTANT 'WHAT IT BREAKS' RESULT
for i in "${!names[@]}"; do
    name=${names[i]}
    ((${#wanted[@]} == 0)) || [[ " ${wanted[*]} " == *" $name "* ]] || continue
    text=$(<"${files[i]}")
    rest=${text/"${from[i]}"/}
    if [[ $rest == "$text" || ${rest/"${from[i]}"/} != "$rest" ]]; then
        printf 'mutants: %s: "%s" is not in %s exactly once\n' "$name" "${from[i]}" "${files[i]}" >&2
        exit 1
    fi
    printf '%s\n' "${text/"${from[i]}"/"${to[i]}"}" >"$work/mutant.c"
    [[ $name != HALF ]] || sed -i 's/KD_BUG_ON(p->missing != 0);//' "$work/mutant.c"
    compile "$work/mutant.c" "$work/mutant.o"
    objects=("$work/mutant.o")
    for s in "${sources[@]}"; do
        [[ $s == "${files[i]}" ]] || objects+=("$work/$(basename "$s").o")
    done
    link "${objects[@]}"
    if survives; then
        result='NOT CAUGHT'
        failed=1
    else
        result=$(grep -om1 'seed [0-9]* breaks.*\|seed [0-9]*: .*' "$work/log" || grep -om1 'BUG.*\|runtime error.*\|ERROR: Addr.*' "$work/log" || echo 'ended badly')
        result="caught: ${result:0:90}"
    fi
    printf '%-18s %-70s %s\n' "$name" "${about[i]}" "$result"
done
exit "$failed"
