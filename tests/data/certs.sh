#!/bin/sh
# Makes ca.pem, server.pem and server.key anew: a CA whose key is thrown away and one
# server certificate for localhost and 127.0.0.1, both valid from 2020 for 100 years.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cat > "$tmp/conf" <<END
[ca]
default_ca = it
[it]
database = $tmp/index
new_certs_dir = $tmp
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
extendedKeyUsage = serverAuth
END
: > "$tmp/index"
for name in ca server; do
    openssl req -config "$tmp/conf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=mom test $name" -keyout "$tmp/$name.key" -out "$tmp/$name.csr"
done
sign() {
    openssl ca -config "$tmp/conf" -batch -notext -keyfile "$tmp/ca.key" \
        -startdate 20200101000000Z -enddate 21200101000000Z "$@"
}
sign -selfsign -extensions root -in "$tmp/ca.csr" -out ca.pem
sign -cert ca.pem -extensions server -in "$tmp/server.csr" -out server.pem
cp "$tmp/server.key" server.key
