#!/usr/bin/env bash
# Installs the Debian 12 packages that a build needs. Does nothing, and needs no network and no
# rights, when all of them are there.
set -euo pipefail

usage() {
    cat <<'END'
Usage: deploy/install-deps.sh [--test] [--web] [--fuzz] [--models] [--deploy] [--list]

  --test    also what the tests need: clang-format, clang-tidy, Python with gRPC, ip and nft, curl, zsh and fish,
            man and mandoc, a compiler for 32-bit Arm and QEMU
  --web     also what the tests of dashboard and metrics need, which are skipped without: Chromium
            with its driver, Prometheus (Debian starts it as a service)
  --fuzz    also what tests/fuzz/campaign.sh needs: clang with libFuzzer
  --models  also what tests/models/run.sh needs: the model checker Spin
  --deploy  also what tests/deploy needs: lintian, systemd's containers, buildah, Slurm (Debian starts munge
            as a service)
  --list    print the packages instead of installing them
END
}

# Compilers and tools, what makes packages, then the libraries in the order of ARCHITECTURE: RPC, engine, data, the rest.
packages=(
    build-essential cmake ninja-build pkg-config protobuf-compiler protobuf-c-compiler
    dpkg-dev fakeroot file
    libgrpc-dev libprotobuf-c-dev libuv1-dev libssl-dev
    libopenblas-dev libdnnl-dev
    libjpeg-dev libspng-dev zlib1g-dev
    libsqlite3-dev libyaml-dev libjansson-dev libxxhash-dev libcmocka-dev
    libmicrohttpd-dev libcurl4-openssl-dev libjs-chart.js
)
test_packages=(
    clang-format clang-tidy python3 python3-grpcio python3-protobuf
    iproute2 nftables
    curl zsh fish
    man-db mandoc
    sqlite3 protobuf-compiler-grpc
    gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user
)
web_packages=(chromium chromium-driver python3-selenium prometheus)
# The compiler, its sanitizers and libFuzzer, OpenMP for it, and the symbolizer of its reports.
fuzz_packages=(clang-14 libclang-rt-14-dev libomp-14-dev llvm-14)
model_packages=(spin)
deploy_packages=(
    lintian mmdebstrap systemd-container iproute2
    buildah slurmctld slurmd slurm-client munge
)

list=no
while (($#)); do
    case $1 in
    --test) packages+=("${test_packages[@]}") ;;
    --web) packages+=("${web_packages[@]}") ;;
    --fuzz) packages+=("${fuzz_packages[@]}") ;;
    --models) packages+=("${model_packages[@]}") ;;
    --deploy) packages+=("${deploy_packages[@]}") ;;
    --list) list=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        printf 'install-deps: unknown flag "%s"; --help shows them\n' "$1" >&2
        exit 2
        ;;
    esac
    shift
done

if [[ $list == yes ]]; then
    printf '%s\n' "${packages[@]}"
    exit 0
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps: this is not Debian; install by hand what --list prints" >&2
    exit 1
fi

is_installed() { # PACKAGE
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}
missing=()
for p in "${packages[@]}"; do
    is_installed "$p" || missing+=("$p")
done
if ((${#missing[@]} == 0)); then
    exit 0
fi

as_root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || {
        printf 'install-deps: run as root, or install sudo; missing: %s\n' "${missing[*]}" >&2
        exit 1
    }
    as_root=(sudo)
fi
printf 'installing %d packages: %s\n' "${#missing[@]}" "${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

apt() { # apt-get ARGUMENTS; its output shows only when it fails
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$log" 2>&1 </dev/null || {
        local rc=$?
        cat "$log" >&2
        printf 'install-deps: apt-get %s failed\n' "$1" >&2
        return "$rc"
    }
}
apt update
apt install --no-install-recommends "${missing[@]}"
