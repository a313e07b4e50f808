# The part of packages.sh that runs on the fresh machine, as root, with systemd as process 1.
set -euo pipefail
fail() {
    echo "FAIL: $*"
    journalctl --no-pager -n 60 -u distilld -u distill-worker || true
    exit 1
}
note() { echo "== $*"; }
apt() { apt-get -qq -y --no-install-recommends "$@" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; fail "apt-get $*"; }; }
as_admin() { runuser -u distilld -- env DISTILL_CREDENTIALS=/var/lib/distilld/tls/admin "$@"; }
distill() { as_admin distill "$@"; }
await() { # TEXT COMMAND...: until it prints that
    local text=$1 i; shift
    for ((i = 0; i < 300; i++)); do
        ! "$@" 2>&1 | grep -F -- "$text" >/dev/null || return 0
        sleep 0.2
    done
    "$@" || true
    fail "$*: never said $text"
}
main_pid() { systemctl show -P MainPID "$1"; }
runs() { systemctl is-active --quiet "$1" || fail "$1 does not run: $(systemctl is-active "$1")"; }

note "install"
apt install /packages/*.deb
runs distilld
systemctl is-enabled --quiet distilld distill-worker || fail "units are not enabled"
[[ $(systemctl is-active distill-worker) == inactive ]] || fail "a worker runs that has joined nobody"
[[ $(systemctl show -P ConditionResult distill-worker) == no ]] || fail "not for its condition"
for user in distilld distill-worker; do
    [[ $(stat -c %U "/proc/$(main_pid distilld)") == distilld ]] || fail "distilld runs as another user"
    [[ $(stat -c '%U %a' /var/lib/$user) == "$user 700" ]] || fail "/var/lib/$user: $(stat -c '%U %a' /var/lib/$user)"
    [[ $(getent passwd $user | cut -d: -f7) == */nologin ]] || fail "$user may log in"
done
ca=$(sha256sum </var/lib/distilld/tls/ca.pem)
distill whoami | grep -q admin || fail "the admin is not known"
systemd-analyze verify distilld.service distill-worker.service || fail "systemd-analyze verify"

grep -q '^# heartbeat_ms: ' /etc/distilld/distilld.yaml || fail "the settings do not show every key"
links=0
for page in /usr/share/doc/distill*/*.md; do
    while read -r name; do
        [[ -e $(dirname "$page")/$name ]] || fail "$page names $name, which is not installed"
        links=$((links + 1))
    done < <(grep -oE '\]\([a-z-]+\.md' "$page" | sed 's/^..//')
done
((links >= 10)) || fail "only $links links were looked at"

note "a worker joins, a job is trained"
token=$(distill token create --role worker --ttl 1h 2>/dev/null)
distill-worker join "$token" --server localhost:7070
[[ $(stat -c %U /var/lib/distill-worker/credentials/*) != *root* ]] || fail "root's files in the worker's folder"
mkdir -p /srv/distill
command distill data make flowers /srv/distill/flowers --size 32 --train 90 --val 37 --seed 5
chmod -R a+rX /srv/distill # the worker's user is to read it
systemctl start distill-worker
await idle distill workers
cat >/tmp/job.yaml <<'YAML'
name: packaged
seed: 3
data: {labelled: {format: image-folder, path: flowers, train: train.txt, val: val.txt, size: 32}}
teacher: {model: cheap_cnn, fine_tune: {epochs: 1, optimizer: {name: adam, lr: 1e-3}, batch_norm: trained}}
student: {model: cheap_cnn}
distill: {loss: {kd: 0.9, ce: 0.1, temperature: 5, t2: none}, optimizer: {name: adam, lr: 1e-3}, epochs: 2, batch: 16, slots: 4}
YAML
chmod 644 /tmp/job.yaml
job=$(distill submit /tmp/job.yaml -q)
distill wait "$job" || fail "the job did not succeed"
digest=$(distill show "$job" -o json | sed -n 's/.*"digest": *"\([0-9a-f]\{32\}\)".*/\1/p' | tail -n 1)
[[ -n $digest ]] || fail "no digest"

note "a daemon that is killed comes back"
pid=$(main_pid distilld)
kill -KILL "$pid"
await succeeded distill jobs
[[ $(main_pid distilld) != "$pid" ]] || fail "the same process"

note "upgrade: settings of ours stay, services run the new version, nothing stored is lost"
echo 'min_free: 65M' >>/etc/distilld/distilld.yaml
pid=$(main_pid distilld) worker=$(main_pid distill-worker)
apt install /newer/*.deb -o Dpkg::Options::=--force-confold
[[ $(dpkg-query -W -f '${Version}' distilld) == *+later ]] || fail "not upgraded"
grep -q 'min_free: 65M' /etc/distilld/distilld.yaml || fail "the administrator's settings are gone"
grep -q 'later version' /etc/distilld/distilld.yaml.dpkg-dist || fail "no .dpkg-dist beside them"
grep -q 'later version' /etc/default/distill-worker || fail "untouched settings were not replaced"
runs distilld
runs distill-worker
[[ $(main_pid distilld) != "$pid" && $(main_pid distill-worker) != "$worker" ]] || fail "not restarted"
await idle distill workers
distill show "$job" -o json | grep -q "$digest" || fail "the job is gone"
[[ $(sha256sum </var/lib/distilld/tls/ca.pem) == "$ca" ]] || fail "another CA"

note "a unit that the administrator has disabled stays so"
systemctl disable --quiet --now distill-worker
apt install --reinstall /newer/distill-worker*.deb
! systemctl is-enabled --quiet distill-worker || fail "enabled again"
systemctl enable --quiet --now distill-worker

note "remove keeps state and settings"
apt remove distilld distill-worker distill-client
! systemctl is-active --quiet distilld || fail "distilld still runs"
[[ -e /var/lib/distilld/distilld.db && -e /etc/distilld/distilld.yaml ]] || fail "removed too much"
apt install /newer/*.deb
runs distilld
await idle distill workers
distill show "$job" -o json | grep -q "$digest" || fail "the job is gone after a removal"

note "purge leaves nothing but the users and the data"
apt purge distilld distill-worker distill-client
left=$(find / -xdev \( -path /proc -o -path /sys -o -path /srv -o -path /var/log/journal -o -path /var/cache -o -path /packages -o -path /newer \
    -o -path /tmp \) -prune -o -name '*distill*' -print)
[[ -z $left ]] || fail "left behind: $left"
[[ -z $(dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' 'distill*' 2>/dev/null | grep -v 'un $') ]] ||
    fail "$(dpkg-query -W 'distill*')"
[[ -z $(systemctl --failed --no-legend --plain) ]] || fail "$(systemctl --failed --no-legend --plain)"
note "ok: installed, upgraded, removed and purged; student $digest"
