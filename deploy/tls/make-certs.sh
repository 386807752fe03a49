#!/bin/sh
# Makes the certificates of a federation with openssl: one authority, one certificate for the coordinator, one for each
# agent. POSIX sh; OpenSSL 1.1.1 or newer. Nothing that is there is ever overwritten.
#
# Usage:
#   make-certs.sh DIR NAMES AGENT...    a new authority, the coordinator's certificate, and one per agent
#   make-certs.sh --add DIR AGENT...    one more certificate per agent, from the authority in DIR
#
# AGENT is the name of the member that the agent serves, and of its certificate. More members go behind it: an agent
# "hospital=north,south,ward-*" also serves north, south, and all whose names begin with ward-. Quote the star.
# NAMES are the host names and IP addresses that agents dial, separated by commas: coordinator.example.org,10.0.0.5
#
# DIR then holds
#   ca.pem ca.key               the authority; keep ca.key away from every machine that serves
#   server.pem server.key       for the coordinator: --tls-cert, --tls-key, and --client-ca ca.pem
#   agent-NAME.pem agent-NAME.key   for the agent NAME, which needs ca.pem too
set -eu
umask 077

ca_days=3650
days=825

die() {
    echo "make-certs.sh: $*" >&2
    exit 1
}

usage() {
    sed -n 's/^# \{0,1\}//; 5,11p' "$0" >&2
    exit 2
}

absent() {
    for file in "$@"; do
        if [ -e "$file" ]; then die "$file is there already; choose another folder, or remove it yourself"; fi
    done
}

# Names as the coordinator takes them: 1 to 64 of a-z A-Z 0-9 . _ -, starting with a letter or digit.
check_name() {
    case $1 in
        '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) die "name '$1': use letters, digits, '.', '_' and '-', and start with a letter or digit" ;;
    esac
    [ "${#1}" -le 64 ] || die "name '$1' is longer than 64 characters"
}

# serves AGENT: names for its certificate. AGENT is NAME or NAME=PATTERN,...; a pattern may end in a star.
serves() {
    check_name "${1%%=*}"
    list="DNS:${1%%=*}"
    case $1 in
        *=) die "agent '$1': nothing is behind the '='" ;;
        *=*) patterns=${1#*=} ;;
        *) patterns= ;;
    esac
    old_ifs=$IFS
    IFS=,
    set -f # a star is part of a name here, not files
    for pattern in $patterns; do
        if [ "$pattern" != '*' ]; then check_name "${pattern%'*'}"; fi
        list="$list,DNS:$pattern"
    done
    set +f
    IFS=$old_ifs
    echo "$list"
}

# san NAMES: the list in the form that openssl wants; addresses are told from names by their look.
san() {
    list=
    old_ifs=$IFS
    IFS=,
    set -f # a wildcard is a name here, not files
    for name in $1; do
        case $name in
            '' | *[!A-Za-z0-9.:_*-]*) die "'$name' is neither a host name nor an IP address" ;;
            *:*) entry="IP:$name" ;;
            *[!0-9.]*) entry="DNS:$name" ;;
            *) entry="IP:$name" ;;
        esac
        list="$list${list:+,}$entry"
    done
    set +f
    IFS=$old_ifs
    [ -n "$list" ] || die "give at least one host name or IP address of the coordinator"
    echo "$list"
}

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null
    chmod 600 "$1"
}

# A configuration of our own: the system's need not be there, and differs. `req` wants a subject section even with -subj.
config() {
    printf '%s\n' '[req]' 'distinguished_name = subject' 'prompt = no' '[subject]' 'CN = tessera' '[ext]' "$@" > "$work/config"
}

authority() {
    key "$dir/ca.key"
    config 'basicConstraints = critical,CA:TRUE,pathlen:0' 'keyUsage = critical,keyCertSign,cRLSign' \
        'subjectKeyIdentifier = hash'
    # a name of its own, so that an agent of another federation is told that the issuer is unknown
    openssl req -new -x509 -sha256 -days "$ca_days" -key "$dir/ca.key" -subj "/CN=Tessera authority $(openssl rand -hex 4)" \
        -config "$work/config" -extensions ext -out "$dir/ca.pem"
    chmod 644 "$dir/ca.pem"
}

# leaf FILE SUBJECT USAGE NAMES
leaf() {
    key "$dir/$1.key"
    config 'basicConstraints = critical,CA:FALSE' 'keyUsage = critical,digitalSignature' "extendedKeyUsage = $3" \
        "subjectAltName = $4" 'subjectKeyIdentifier = hash' 'authorityKeyIdentifier = keyid'
    openssl req -new -sha256 -key "$dir/$1.key" -subj "/CN=$2" -config "$work/config" -out "$work/request"
    openssl x509 -req -sha256 -days "$days" -in "$work/request" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" \
        -set_serial "0x$(openssl rand -hex 16)" -extfile "$work/config" -extensions ext -out "$dir/$1.pem" 2>/dev/null
    chmod 644 "$dir/$1.pem"
    openssl verify -CAfile "$dir/ca.pem" "$dir/$1.pem" >/dev/null || die "$dir/$1.pem does not verify"
    echo "$dir/$1.pem"
}

agents() {
    for agent in "$@"; do
        patterns=$(serves "$agent")
        leaf "agent-${agent%%=*}" "${agent%%=*}" clientAuth "$patterns"
    done
}

command -v openssl >/dev/null 2>&1 || die "openssl is not installed"
[ $# -ge 3 ] || usage
if [ "$1" = --add ]; then
    dir=$2
    shift 2
    names=
    if [ ! -r "$dir/ca.pem" ] || [ ! -r "$dir/ca.key" ]; then die "there is no authority (ca.pem, ca.key) in $dir"; fi
else
    dir=$1
    names=$(san "$2")
    shift 2
    absent "$dir/ca.pem" "$dir/ca.key" "$dir/server.pem" "$dir/server.key"
fi
seen=,
for agent in "$@"; do
    serves "$agent" >/dev/null
    name=${agent%%=*}
    case $seen in *,"$name",*) die "agent name '$name' is given twice" ;; esac
    seen="$seen$name,"
    absent "$dir/agent-$name.pem" "$dir/agent-$name.key"
done

mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
if [ -n "$names" ]; then
    authority
    leaf server coordinator serverAuth "$names"
fi
agents "$@"
