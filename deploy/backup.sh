#!/usr/bin/env bash
# Copies the state of a coordinator, which may run meanwhile, and brings a copy back.
#
#   deploy/backup.sh make STATE COPY          a whole copy of STATE in COPY, which must not be there
#   deploy/backup.sh restore COPY STATE       STATE out of a copy; STATE must not be there, or be empty
#   deploy/backup.sh check COPY               whether all that the database names is there
#
# Wants sqlite3, and to be run as the user that STATE belongs to (runuser -u distilld --). A job that was
# running goes on from the copy, to the same bits. STATE/tls is copied too: who has it can make anybody.
# Exit codes: 0 well, 1 failure, 2 usage.
set -euo pipefail

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
}
die() {
    printf 'backup: %s\n' "$*" >&2
    exit 1
}
command -v sqlite3 >/dev/null || die "there is no sqlite3: apt-get install sqlite3"

# Files that the database names and that are missing or of another size, a line each.
missing() { # COPY
    sqlite3 -readonly "$1/distilld.db" "SELECT size || ' ' || path FROM files" |
        while read -r size path; do
            [[ $(stat -c %s -- "$1/$path" 2>/dev/null) == "$size" ]] || printf '%s\n' "$path"
        done
}

check() { # COPY
    local found lost
    found=$(sqlite3 -readonly "$1/distilld.db" 'PRAGMA integrity_check') || die "$1/distilld.db cannot be read"
    [[ $found == ok ]] || die "$1/distilld.db is damaged: $found"
    lost=$(missing "$1")
    [[ -z $lost ]] || die "$1 lacks $(wc -l <<<"$lost") files that its database names, the first: ${lost%%$'\n'*}"
}

# Files come and go while they are copied.
copy_files() { # STATE COPY
    local part
    for part in jobs bank blobs tls; do
        [[ ! -e $1/$part ]] || cp -a --update --no-target-directory -- "$1/$part" "$2/$part" 2>/dev/null || true
    done
    [[ ! -e $1/distilld.yaml ]] || cp -a -- "$1/distilld.yaml" "$2/"
}

make() { # STATE COPY
    local try
    [[ -e $1/distilld.db ]] || die "$1 is no state folder: it has no distilld.db"
    [[ $(stat -c %u -- "$1/distilld.db") == "$EUID" ]] ||
        die "run it as the owner of $1: runuser -u $(stat -c %U -- "$1/distilld.db") -- ..."
    [[ ! -e $2 ]] || die "$2 is there already"
    umask 077
    mkdir -- "$2"
    # What the database names was there when it was copied: before (first pass) or meanwhile (second). A
    # checkpoint may have come and gone between; then once more.
    for ((try = 0; try < 10; try++)); do
        copy_files "$1" "$2"
        rm -f -- "$2/distilld.db"
        sqlite3 "$1/distilld.db" ".timeout 20000" ".backup '${2//\'/\'\'}/distilld.db'" || die "the database could not be copied"
        copy_files "$1" "$2"
        [[ -n $(missing "$2") ]] || break
    done
    check "$2"
    sync -f "$2"
}

restore() { # COPY STATE
    [[ -e $1/distilld.db ]] || die "$1 is no copy: it has no distilld.db"
    [[ ! -e $2 || -z $(ls -A -- "$2") ]] || die "$2 is there already and is not empty"
    check "$1"
    umask 077
    mkdir -p -- "$2"
    cp -a -- "$1/." "$2/"
    # Generations must never come again, also not those that were begun after the copy was made.
    sqlite3 "$2/distilld.db" "UPDATE meta SET value = value + 1000 WHERE name = 'epoch'"
    sync -f "$2"
}

case $#:${1-} in
3:make) make "${2%/}" "${3%/}" ;;
3:restore) restore "${2%/}" "${3%/}" ;;
2:check) check "${2%/}" ;;
*) usage ;;
esac
