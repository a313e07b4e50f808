# Sourced by the tests of this folder: a coordinator that asks for certificates, and who has some.
. tests/integration/cluster.sh

# secure_coordinator: certificates made, then started; from then on commands are the admin's.
secure_coordinator() {
    [ -e "$DIR/state/tls" ] || "$BUILD/distilld" init --state-dir "$DIR/state" --listen 127.0.0.1:0 >"$DIR/init"
    coordinator
    export DISTILL_CREDENTIALS=$DIR/state/tls/admin
}
as() { # NAME COMMAND...: with the login of that name
    local name=$1; shift
    DISTILL_CREDENTIALS=$DIR/logins/$name "$@"
}
token() { distill token create "$@" 2>/dev/null; } # FLAGS...
login() { # NAME ROLE: a login of that name
    local with=(distill login)
    [ "$2" != worker ] || with=("$BUILD/distill-worker" join)
    "${with[@]}" "$(token --role "$2" --name "$1")" --credentials "$DIR/logins/$1" >>"$DIR/logins.log" 2>&1 ||
        { cat "$DIR/logins.log"; fail "$1 could not log in"; }
}
secure_worker() { # NAME: joins with a token, then starts
    login "$1" worker
    DISTILL_WORKER_CREDENTIALS=$DIR/logins/$1 worker "$1"
}
